"""What is played: each scenario is a setting, the span of time that is judged, and what is worth saying about it.

C is what one node can sign per second. All chance is seeded, so that a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bench.routing.engine import Simulation
from bench.routing.policies import OURS, POLICIES, Policy
from bench.routing.topology import Act, Incident, NodeSpec, Setting, SiteSpec
from hsm.backends.simulated.faults import Fault, FaultKind
from hsm.backends.simulated.profiles import PROFILES
from hsm.wire.schemes import KeyType

P256, RSA = KeyType.P256, KeyType.RSA_2048
HSM1, HSM2M = "cloudhsm-hsm1", "cloudhsm-hsm2m"
FAULT_AT, SETTLED_AT, WELL_AT, END = 5.0, 7.0, 14.0, 23.0
"""Seconds: the fault begins, routing should have adapted, the fault ends, the last handshake comes."""
Says = Callable[[Simulation], str]
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to be played with several policies."""

    name: str
    title: str
    setting: Setting
    span: Span
    """What is judged."""
    before: Span | None = None
    after: Span | None = None
    sites: tuple[str, ...] | None = None
    """Whose jobs are judged; None: all."""
    says: Says | None = None
    policies: tuple[Policy, ...] = POLICIES


def capacity(profile: str, kind: KeyType = P256) -> float:
    """C."""
    return PROFILES[profile].model().figures[kind].rate


def nodes_of(profile: str, count: int = 3, **changes: object) -> list[NodeSpec]:
    """So many nodes that are alike."""
    model = PROFILES[profile].model()
    return [NodeSpec(f"node-{number + 1}", model, **changes) for number in range(count)]  # type: ignore[arg-type]


def _goodput(rate: float, begin: float, end: float) -> Says:
    def says(sim: Simulation) -> str:
        summary = sim.ledger.between(begin, end)
        share = sim.ledger.good_per_s(begin, end) / rate
        shed = f", refused: p99 {summary.fail_p99_s * 1e3:.0f} ms" if summary.failed else ""
        return f"goodput {share:.1%} of 3C{shed}"

    return says


def saturation(profile: str, kind: KeyType, factor: float, *, seconds: float = 20.0) -> Scenario:
    """Three nodes, and `factor` times as many handshakes as they can sign."""
    rate = 3 * capacity(profile, kind)
    short = "rsa" if kind is RSA else "p256"
    setting = Setting(nodes_of(profile), [SiteSpec("www", factor * rate, kind)], seconds=seconds)
    span = (2.0, seconds)
    return Scenario(
        name=f"load-{factor:g}-{profile.removeprefix('cloudhsm-')}-{short}",
        title=f"{factor:g} x 3C, {profile} {short}, service time {_service_ms(profile, kind):.1f} ms",
        setting=setting,
        span=span,
        says=_goodput(rate, *span),
    )


def _service_ms(profile: str, kind: KeyType) -> float:
    return PROFILES[profile].model().figures[kind].median_s * 1e3


def _share(node: str, begin: float, end: float) -> Says:
    def says(sim: Simulation) -> str:
        ledger = sim.ledger
        ejected = next((f"{at - FAULT_AT:.2f} s" for at, name, _, _ in ledger.ejections if name == node), "never")
        return f"its share {ledger.share_of(node, begin, end):.1%} from 2 s on, ejected {ejected}"

    return says


def _one_node(
    name: str,
    title: str,
    incidents: Sequence[Incident],
    *,
    profile: str = HSM2M,
    load: float = 0.6,
    says: Says | None = None,
    policies: tuple[Policy, ...] = POLICIES,
    end: float = END,
) -> Scenario:
    """Three nodes under `load` of their joint capacity; something happens to the first."""
    site = SiteSpec("www", load * 3 * capacity(profile))
    return Scenario(
        name=name,
        title=title,
        setting=Setting(nodes_of(profile), [site], incidents, seconds=end),
        span=(FAULT_AT, min(WELL_AT, end)),
        before=(2.0, FAULT_AT),
        after=(WELL_AT + 6.0, end) if end > WELL_AT + 6.0 else None,
        says=says or _share("node-1", SETTLED_AT, min(WELL_AT, end)),
        policies=policies,
    )


def _fault(kind: FaultKind, **changes: object) -> list[Incident]:
    return [Incident(FAULT_AT, "node-1", Act.FAULT, WELL_AT, Fault(kind=kind, **changes))]  # type: ignore[arg-type]


NO_HEDGE = OURS.with_routing("ours, no hedging", hedge_share=0.0)


def slow(profile: str = HSM2M, *, load: float = 0.5, end: float = END) -> Scenario:
    """One node becomes ten times slower."""
    title = f"one node 10x slower, {load:.0%} of 3C offered"
    fault, policies = _fault(FaultKind.SLOW), (*POLICIES, NO_HEDGE)
    return replace(
        _one_node(f"slow-{load * 100:.0f}", title, fault, profile=profile, load=load, policies=policies, end=end),
        span=(SETTLED_AT, min(WELL_AT, end)),
    )


def faults(profile: str = HSM2M, *, end: float = END) -> list[Scenario]:
    """Every way in which one node of three can be bad, at 60 % of their joint capacity."""
    act = Act
    one_node = partial(_one_node, profile=profile, end=end)
    flaps = [Incident(FAULT_AT + 2 * i, "node-1", act.KILL, FAULT_AT + 2 * i + 1) for i in range(5)]

    def single(kind: Act, until: float | None = WELL_AT, key: str = "") -> list[Incident]:
        return [Incident(FAULT_AT, "node-1", kind, until, key=key)]

    return [
        one_node("kill", "node killed, and back", single(act.KILL)),
        one_node("hang", "node hangs", _fault(FaultKind.HANG)),
        one_node("flap", "node 1 s down, 1 s up", flaps),
        one_node("error-30", "30 % errors", _fault(FaultKind.ERROR, rate=0.3)),
        one_node("error-100", "errors only", _fault(FaultKind.ERROR)),
        one_node("wrong", "wrong signatures", _fault(FaultKind.WRONG_SIGNATURE)),
        one_node("lost-key", "key lost", _fault(FaultKind.LOST_KEY)),
        one_node("reset", "link reset", single(act.RESET, None)),
        one_node("half-open", "link half open", single(act.BLACK_HOLE)),
        key_hang(profile, end=end),
        one_node("drain", "node drains, and is back", single(act.DRAIN)),
        one_node("remove", "node removed, and added again", single(act.REMOVE)),
    ]


def key_hang(profile: str = HSM2M, *, end: float = END) -> Scenario:
    """One of two keys hangs at one node, which signs well with the other."""
    incident = Incident(FAULT_AT, "node-1", Act.HANG_KEY, WELL_AT, key="bad")
    base = _one_node("key-hang", "one of two keys hangs at one node", [incident], profile=profile, end=end)
    total = 3 * capacity(profile)
    sites = [SiteSpec("good", 0.4 * total), SiteSpec("bad", 0.2 * total)]

    def says(sim: Simulation) -> str:
        good = sim.ledger.between(FAULT_AT, base.span[1], ["good"])
        share = sim.ledger.share_of("node-1", SETTLED_AT, base.span[1])
        return f"p99 with the other key {good.p99_s * 1e3:.1f} ms; the node keeps {share:.1%} of all"

    return replace(base, setting=replace(base.setting, sites=sites), sites=("bad",), says=says)


def lonely_key(profile: str = HSM2M, *, end: float = 15.0) -> Scenario:
    """Two sites; the key of one is on a node that hangs, and nowhere else."""
    total = 3 * capacity(profile)
    nodes = [replace(node, lacks=frozenset({"lonely"} if node.name != "node-1" else ())) for node in nodes_of(profile)]
    sites = [SiteSpec("www", 0.5 * total), SiteSpec("lonely", 0.05 * total)]

    def says(sim: Simulation) -> str:
        before = sim.ledger.between(2.0, FAULT_AT, ["www"])
        during = sim.ledger.between(FAULT_AT, end, ["www"])
        settled = sim.ledger.between(SETTLED_AT, end, ["www"])
        other = sim.ledger.between(FAULT_AT, end - 1, ["lonely"])
        change, later = (x.p99_s / max(before.p99_s, 1e-9) - 1 for x in (during, settled))
        return f"p99 of the other site {change:+.0%} (from 2 s on {later:+.0%}), lonely ends in {_ms(other.fail_p99_s)}"

    setting = Setting(nodes, sites, _fault(FaultKind.HANG), seconds=end)
    return Scenario("lonely-key", "a key on a hung node only, beside another site", setting,
                    span=(FAULT_AT, end), before=(2.0, FAULT_AT), sites=("www",), says=says)  # fmt: skip


def many_nodes(*, end: float = 12.0, count: int = 64) -> Scenario:
    """A large fleet of which one dies, one hangs, one is slow and one errs."""
    incidents = [
        Incident(FAULT_AT, "node-1", Act.KILL),
        Incident(FAULT_AT, "node-2", Act.FAULT, fault=Fault(kind=FaultKind.HANG)),
        Incident(FAULT_AT, "node-3", Act.FAULT, fault=Fault(kind=FaultKind.SLOW)),
        Incident(FAULT_AT, "node-4", Act.FAULT, fault=Fault(kind=FaultKind.ERROR, rate=0.5)),
    ]
    sites = [SiteSpec(f"www-{n}", 0.7 * count * capacity(HSM1) / 8) for n in range(8)]

    def says(sim: Simulation) -> str:
        bad = sum(sim.ledger.share_of(f"node-{n}", SETTLED_AT, end) for n in (2, 3, 4))
        well = [times for name, times in sim.ledger.sends.items() if name not in {f"node-{n}" for n in (1, 2, 3, 4)}]
        counts = sorted(sum(at >= SETTLED_AT for at in times) for times in well)
        return f"bad ones' share {bad:.1%}, good ones' spread {counts[-1] / max(1, counts[0]):.2f}"

    setting = Setting(nodes_of(HSM1, count), sites, incidents, seconds=end)
    return Scenario("fleet-64", f"{count} nodes: one dead, hung, slow, erring", setting, span=(FAULT_AT, end),
                    before=(2.0, FAULT_AT), says=says)  # fmt: skip


def zones(*, end: float = 20.0) -> Scenario:
    """Two near nodes, two 30 ms away; the load grows from what the near ones can sign to more than that."""
    model = PROFILES[HSM1].model()
    nodes = [NodeSpec(f"near-{n}", model, zone="a") for n in (1, 2)]
    nodes += [NodeSpec(f"far-{n}", model, rtt_s=0.0304, zone="b") for n in (1, 2)]
    rate = capacity(HSM1)
    site = SiteSpec("www", rate, steps=((10.0, 3.0),))

    def says(sim: Simulation) -> str:
        far = [sum(sim.ledger.share_of(f"far-{n}", *span) for n in (1, 2)) for span in ((2.0, 10.0), (12.0, end))]
        return f"far zone's share {far[0]:.1%} with 0.5 x the near capacity, {far[1]:.1%} with 1.5 x"

    policies = tuple(policy.with_routing(policy.name, zone="a") for policy in POLICIES)
    setting = Setting(nodes, [site], seconds=end, zone="a")
    return Scenario("zones", "near zone full: spill-over", setting, span=(12.0, end), before=(2.0, 10.0),
                    says=says, policies=policies)  # fmt: skip


def weights(*, end: float = 12.0) -> Scenario:
    """Three nodes that differ by 1 : 2 : 4 in speed and weight."""
    models = [PROFILES[HSM2M].model() for _ in range(3)]
    nodes = [NodeSpec(f"node-{w}", model, weight=w) for w, model in zip((1.0, 2.0, 4.0), models, strict=True)]

    def says(sim: Simulation) -> str:
        shares = [sim.ledger.share_of(f"node-{w}", 2.0, end) * 7 for w in (1.0, 2.0, 4.0)]
        return "spread " + " : ".join(f"{share:.2f}" for share in shares) + " (weights 1 : 2 : 4)"

    setting = Setting(nodes, [SiteSpec("www", 0.4 * 3 * capacity(HSM2M))], seconds=end)
    return Scenario("weights", "equal nodes with weights 1 : 2 : 4", setting, span=(2.0, end), says=says)


def all_down(profile: str = HSM2M, *, end: float = 20.0) -> Scenario:
    """Every node dies; they come back, the first a second earlier."""
    back = {"node-1": 10.0, "node-2": 11.0, "node-3": 11.0}
    incidents = [Incident(FAULT_AT, node, Act.KILL, until) for node, until in back.items()]
    rate = 0.3 * 3 * capacity(profile)

    def says(sim: Simulation) -> str:
        down = sim.ledger.between(FAULT_AT, 8.0)
        slices = [10.0 + 0.1 * step for step in range(50)]
        well = next((at for at in slices if sim.ledger.between(at, at + 0.1).good_share >= 0.99), 99.0)
        return f"fails within {_ms(down.fail_worst_s)}, all good again {well - 10.0:.1f} s after the first is back"

    setting = Setting(nodes_of(profile), [SiteSpec("www", rate)], incidents, seconds=end)
    return Scenario("all-down", "all nodes down, and back", setting, span=(12.5, end), before=(2.0, FAULT_AT),
                    says=says)  # fmt: skip


def flood(profile: str = HSM2M, *, end: float = 15.0) -> Scenario:
    """A site gets ten times what all nodes can sign, beside a small one."""
    total = 3 * capacity(profile)
    sites = [SiteSpec("flood", 0.4 * total, steps=((FAULT_AT, 25.0),)), SiteSpec("small", 0.05 * total)]

    def says(sim: Simulation) -> str:
        small, big = (sim.ledger.between(SETTLED_AT, end, [name]) for name in ("small", "flood"))
        goodput = sim.ledger.good_per_s(SETTLED_AT, end) / total
        return (
            f"small site {small.good_share:.1%} good, flood refused within {_ms(big.fail_worst_s)}, "
            f"goodput {goodput:.1%} of 3C"
        )

    setting = Setting(nodes_of(profile), sites, seconds=end)
    return Scenario("flood", "a site floods with 10 x 3C, beside a small one", setting, span=(SETTLED_AT, end),
                    before=(2.0, FAULT_AT), sites=("small",), says=says)  # fmt: skip


def million(jobs: int = 1_000_000) -> Scenario:
    """As many jobs as that, at 80 % of sixteen nodes."""
    rate = 0.8 * 16 * capacity(HSM2M)
    setting = Setting(nodes_of(HSM2M, 16), [SiteSpec("www", rate)], seconds=jobs / rate + 10, max_jobs=jobs)
    return Scenario("million", f"{jobs:,} jobs at 0.8 x 16C", setting, span=(2.0, jobs / rate), policies=(OURS,))


def everything(*, quick: bool = False) -> list[Scenario]:
    """All of them, in the order of the table."""
    seconds = 8.0 if quick else 20.0
    found = [
        saturation(profile, kind, factor, seconds=seconds)
        for profile, kind in ((HSM2M, P256), (HSM1, P256), (HSM2M, RSA))
        for factor in (0.9, 2.0)
    ]
    profile = HSM1 if quick else HSM2M
    found += [slow(profile, load=0.5), slow(profile, load=0.6), lonely_key(profile), *faults(profile)]
    found += [many_nodes(count=16 if quick else 64), zones(), weights(), all_down(profile), flood(profile)]
    return found if quick else [*found, million()]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"
