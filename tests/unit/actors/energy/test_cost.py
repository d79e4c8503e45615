"""From joules to watt-hours, money, CO2 and joules per 1,000 tokens."""

import pytest

from actors.energy import cost
from configs.schema import EnergyConfig

PRICES = EnergyConfig(price_per_kwh=0.30, currency="EUR", co2_g_per_kwh=400)


def test_a_kilowatt_hour_costs_its_price_and_its_co2():
    bill = cost.bill(3.6e6, 1_800_000, PRICES)
    assert (bill.joules, bill.joules_per_1000_tokens) == (3.6e6, 2000)
    assert (bill.cost, bill.currency, bill.co2_g) == (pytest.approx(0.30), "EUR", pytest.approx(400))
    assert str(bill) == "1 kWh, 0.3 EUR, 400 g CO2"


def test_without_a_price_there_is_no_money_and_without_tokens_no_rate():
    bill = cost.bill(7200, 0, EnergyConfig())
    assert (bill.cost, bill.currency, bill.co2_g, bill.joules_per_1000_tokens) == (None, None, None, None)
    assert str(bill) == "2 Wh"


def test_what_was_not_measured_costs_nothing_that_is_known():
    bill = cost.bill(None, 1000, PRICES)
    assert set(vars(bill).values()) == {None}
    assert str(bill) == "not measured"


def test_free_electricity_costs_0_which_is_not_unknown():
    assert cost.bill(3.6e6, 1, EnergyConfig(price_per_kwh=0)).cost == 0


@pytest.mark.parametrize(
    ("joules", "text"),
    [(0, "0 Wh"), (18, "0.005 Wh"), (4442, "1.23 Wh"), (1_482_000, "412 Wh"), (3.6e6, "1 kWh"), (4.5e9, "1,250 kWh")],
)
def test_watt_hours_have_three_figures_and_the_unit_that_fits(joules, text):
    assert cost.watt_hours(joules) == text


def test_co2_is_in_kilograms_from_a_thousand_grams():
    assert (cost.mass(999), cost.mass(1500)) == ("999 g", "1.5 kg")
