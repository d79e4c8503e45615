"""What joules come to: watt-hours, money, CO2, joules per 1,000 tokens, in figures and in words. Pure arithmetic.

Called by everything that shows energy: `tandem runs`, `tandem summary`, the daily notice.
"""

from dataclasses import dataclass

from configs.schema import EnergyConfig

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class EnergyCost:
    """Some energy and what it came to; None is not known, or has no price."""

    joules: float | None
    joules_per_1000_tokens: float | None
    cost: float | None
    currency: str | None
    """Of `cost`."""
    co2_g: float | None

    def __str__(self) -> str:
        """Such as `412 Wh, 0.12 EUR, 165 g CO2`; only what is known."""
        parts = [] if self.joules is None else [watt_hours(self.joules)]
        if self.cost is not None:
            parts.append(money(self.cost, self.currency))
        if self.co2_g is not None:
            parts.append(f"{mass(self.co2_g)} CO2")
        return ", ".join(parts) or "not measured"


def bill(joules: float | None, tokens: int | None, prices: EnergyConfig) -> EnergyCost:
    """What `joules` came to; `tokens` is for how many they were used."""
    if joules is None:
        return EnergyCost(None, None, None, None, None)
    kwh = joules / JOULES_PER_KWH
    cost = None if prices.price_per_kwh is None else kwh * prices.price_per_kwh
    return EnergyCost(
        joules=joules,
        joules_per_1000_tokens=1000 * joules / tokens if tokens else None,
        cost=cost,
        currency=None if cost is None else prices.currency,
        co2_g=None if prices.co2_g_per_kwh is None else kwh * prices.co2_g_per_kwh,
    )


def watt_hours(joules: float) -> str:
    """In Wh below a kilowatt-hour, in kWh from there."""
    wh = joules / 3600
    return f"{_figures(wh)} Wh" if wh < 1000 else f"{_figures(wh / 1000)} kWh"


def money(amount: float, currency: str) -> str:
    return f"{_figures(amount)} {currency}"


def mass(grams: float) -> str:
    """In g or kg."""
    return f"{_figures(grams)} g" if grams < 1000 else f"{_figures(grams / 1000)} kg"


def _figures(value: float) -> str:
    """Three significant figures, without an exponent and never fewer than the digits before the point."""
    if value == 0:
        return "0"
    digits = 0
    while digits < 9 and abs(value) * 10**digits < 100:
        digits += 1
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
