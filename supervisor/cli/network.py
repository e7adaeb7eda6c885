"""The verbs `network ...` and `port`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.context import (
    FAILED,
    TABLE_OR_JSON,
    Context,
    complete_names,
    in_project,
    project_options,
)
from supervisor.cli.errors import ApiError
from supervisor.cli.pairs import filter_query, pair


@click.group()
def network() -> None:
    """Networks that services and containers are in: made, listed, connected to, removed."""


@network.command()
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option(
    "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="name, id, label, driver, dangling."
)
@TABLE_OR_JSON
@click.pass_obj
def ls(context: Context, quiet: bool, filters: tuple[str, ...], form: str) -> None:
    """List networks."""
    views = context.client.call("GET", "/networks", filter_query(filters))
    if quiet:
        for view in views:
            click.echo(view["Id"])
    elif form == "json":
        for view in views:
            output.print_json(view)
    else:
        rows = [
            [
                view["Id"][:12],
                view["Name"],
                view["Driver"],
                ", ".join(each["Subnet"] for each in view["IPAM"]["Config"]),
                view["Bridge"],
                view["Project"] or "-",
                str(len(view["Containers"])),
            ]
            for view in views
        ]
        head = ["NETWORK ID", "NAME", "DRIVER", "SUBNETS", "BRIDGE", "PROJECT", "USED BY"]
        click.echo(output.table(head, rows))


@network.command()
@click.option("--format", "form", type=click.Choice(["json"]), default="json", help="What to print.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def inspect(context: Context, form: str, names: tuple[str, ...]) -> None:
    """Everything about networks, as one JSON list, with Docker's names of fields."""
    del form  # the only one; named so that scripts may say it
    views = [context.client.call("GET", f"/networks/{name}") for name in names]
    click.echo(json.dumps(views, indent=2))


@network.command()
@click.option("-d", "--driver", default="bridge", show_default=True, help="There is bridge.")
@click.option("-o", "--opt", "options", multiple=True, metavar="NAME=VALUE", help="An option of the driver.")
@click.option("--subnet", "subnets", multiple=True, metavar="CIDR", help="One for IPv4, one for IPv6.")
@click.option("--gateway", "gateways", multiple=True, metavar="ADDRESS", help="Of the host in a subnet.")
@click.option("--ip-range", "ranges", multiple=True, metavar="CIDR", help="Where addresses are taken from.")
@click.option(
    "--aux-address", "aux", multiple=True, metavar="NAME=ADDRESS", help="An address that nobody gets."
)
@click.option("--internal", is_flag=True, help="No way out, and none in.")
@click.option("--attachable", is_flag=True, help="For Docker's files; every network here is.")
@click.option("--ipv6", is_flag=True, help="IPv6, too; without --subnet from a range of this host's own.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE")
@click.argument("name")
@click.pass_obj
def create(context: Context, /, name: str, **given: Any) -> None:
    """Make the network NAME, and print its id.

    \b
    Options of the driver (-o):
      com.docker.network.bridge.name=NAME                   name of the bridge on the host
      com.docker.network.driver.mtu=BYTES                   MTU of the bridge and of all links
      com.docker.network.bridge.enable_ip_masquerade=BOOL   what goes out has the host's address
      com.docker.network.bridge.enable_icc=BOOL             those in it reach each other
    """
    document = {
        "Name": name,
        "Driver": given["driver"],
        "Options": dict(pair(text) for text in given["options"]),
        "Internal": given["internal"],
        "Attachable": given["attachable"],
        "EnableIPv6": given["ipv6"] or any(":" in text for text in given["subnets"]),
        "Labels": dict(pair(text) for text in given["labels"]),
        "IPAM": {"Config": _pools(given)},
    }
    click.echo(context.client.call("POST", "/networks/create", None, json.dumps(document).encode())["Id"])


@network.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rm(context: Context, names: tuple[str, ...]) -> None:
    """Remove networks that nobody is in."""
    failed = False
    for name in names:
        try:
            context.client.call("DELETE", f"/networks/{name}")
            click.echo(name)
        except ApiError as error:
            output.print_error(str(error))
            failed = True
    if failed:
        sys.exit(FAILED)


@network.command()
@click.option("--filter", "filters", multiple=True, metavar="label=NAME[=VALUE]", help="Only those with it.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@TABLE_OR_JSON
@click.pass_obj
def prune(context: Context, filters: tuple[str, ...], force: bool, form: str) -> None:
    """Remove all networks that nobody is in."""
    if not force:
        click.confirm("Remove all networks that nobody is in?", abort=True, err=True)
    gone = context.client.call("POST", "/networks/prune", filter_query(filters))["NetworksDeleted"]
    if form == "json":
        output.print_json({"removed": gone})
        return
    for name in gone:
        click.echo(name)


@network.command()
@click.option("--alias", "aliases", multiple=True, help="A further name of it there.")
@click.option("--ip", help="Its IPv4 address there.")
@click.option("--ip6", help="Its IPv6 address there.")
@click.argument("name")
@click.argument("container", shell_complete=complete_names)
@click.pass_obj
def connect(
    context: Context, name: str, container: str, aliases: tuple[str, ...], ip: str | None, ip6: str | None
) -> None:
    """Put CONTAINER into the network NAME, too; also while it runs."""
    config = {"Aliases": list(aliases), "IPAMConfig": {"IPv4Address": ip, "IPv6Address": ip6}}
    body = json.dumps({"Container": container, "EndpointConfig": config}).encode()
    context.client.call("POST", f"/networks/{name}/connect", None, body)


@network.command()
@click.option("-f", "--force", is_flag=True, help="For Docker's scripts; nothing else happens.")
@click.argument("name")
@click.argument("container", shell_complete=complete_names)
@click.pass_obj
def disconnect(context: Context, force: bool, name: str, container: str) -> None:
    """Take CONTAINER out of the network NAME; also while it runs."""
    body = json.dumps({"Container": container, "Force": force}).encode()
    context.client.call("POST", f"/networks/{name}/disconnect", None, body)


@click.command()
@TABLE_OR_JSON
@project_options
@click.argument("name", shell_complete=complete_names)
@click.argument("port", required=False)
@click.pass_obj
def port(context: Context, form: str, name: str, port: str | None) -> None:
    """Where the ports of a service are published, or that one: PORT[/PROTO].

    Exit code 1 where it is not published.
    """

    def ask(project: str | None) -> dict[str, Any]:
        view = context.client.call("GET", f"/containers/{name}/json", {"project": project})
        return dict(view["NetworkSettings"]["Ports"])

    ports = in_project(context, ask, (name,))
    if port is not None:
        wanted = port if "/" in port else f"{port}/tcp"
        if not ports.get(wanted):
            output.print_error(f"no public port '{wanted}' published for {name}")
            sys.exit(FAILED)
        ports = {wanted: ports[wanted]}
    if form == "json":
        output.print_json(ports)
        return
    for target, places in ports.items():
        for place in places or ():
            host = f"[{place['HostIp']}]" if ":" in place["HostIp"] else place["HostIp"]
            where = f"{host}:{place['HostPort']}"
            click.echo(where if port is not None else f"{target} -> {where}")


def _pools(given: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each subnet; gateways, ranges and auxiliary addresses go to the subnet that they are in."""
    from ipaddress import ip_address, ip_network

    nets = []
    for text in given["subnets"]:
        try:
            nets.append(ip_network(text, strict=False))
        except ValueError as error:
            raise click.UsageError(f"cannot use --subnet {text}: {error}") from error
    pools: list[dict[str, Any]] = [{"Subnet": str(net), "AuxiliaryAddresses": {}} for net in nets]
    for option, key, texts in (
        ("--gateway", "Gateway", given["gateways"]),
        ("--ip-range", "IPRange", given["ranges"]),
        ("--aux-address", "", given["aux"]),
    ):
        for text in texts:
            name, address = ("", text) if key else pair(text)
            try:
                inner = ip_address(address.partition("/")[0])
            except ValueError as error:
                raise click.UsageError(f"cannot use {option} {text}: {error}") from error
            at = next((number for number, net in enumerate(nets) if inner in net), None)
            if at is None:
                raise click.UsageError(f"no matching subnet for {option} {text}; give --subnet")
            if key:
                pools[at][key] = text
            else:
                pools[at]["AuxiliaryAddresses"][name] = address
    return pools
