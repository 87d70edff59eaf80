"""The simulation floor: whole networks in one process under virtual time, and local ones of real daemons.

`sim.network` is the simulated `Network` port (`SimWorld`, `SimNetwork`) on the pump of `sim.pump` and the
links of `sim.links`; `sim.virtual_clock` runs it reproducibly (`run_deterministic`, `SimClock`,
`InlineBlocking`, `seeded_random`) and `sim.trace` proves it. `sim.scenario` reads scenarios, `sim.faults` is
what goes wrong in them, `sim.timeline` plays them on a stage: `sim.simulated_stage` in virtual time,
`sim.real_stage` on real daemons. `sim.kernel` is Kademlia alone, for tens of thousands of nodes.
`sim.testnet` starts real daemons on this machine, `sim.demo` shows the main job on them; `sim.commands` and
`sim.scenario_commands` hold their commands.
"""
