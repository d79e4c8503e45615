"""Keeps a Serve replica's own ports on loopback."""


def stay_on_loopback() -> None:
    """Call in a deployment's constructor. On a node of more than this machine it changes nothing.

    Ray Serve 2.60 opens every replica's inter-deployment gRPC port on `[::]`, with no authentication, right after the
    constructor (`ray.serve._private.replica`, `_on_initialized`), and has no setting for the address.
    """
    import ray
    from ray.serve._private import replica

    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    add_port = replica.add_port_to_grpc_server

    def add_loopback_port(server, address: str) -> int:
        return add_port(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = add_loopback_port
