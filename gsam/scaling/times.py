"""The section on the time of a step, with its worked examples."""

from gsam.scaling import cost
from gsam.scaling.cost import Machine, hidden_s, last_bucket_s, moved_floats, step
from gsam.scaling.inputs import Inputs
from gsam.scaling.text import AT_ONCE, BATCH, EXAMPLE, GSAM, VANILLA, ms
from gsam.scaling.traffic import FLOAT, Method, Network, payload_floats, small_floats

WORKED = ((GSAM, 1), (GSAM, 8), (GSAM, 64), (VANILLA, 64))


def time_section(inputs: Inputs) -> str:
    network, machine, value = inputs.networks[EXAMPLE], inputs.machine, inputs.value
    speed, share = machine.images_per_s(network), value("link_share")
    flops, used = value("gpu_flops_per_s"), value(f"utilisation_{cost.kind(network)}")
    if network.name in machine.given:
        said, base = machine.given[EXAMPLE], cost.BASE_FLOATS[cost.kind(network)]
        how = (
            f"**A vanilla step of {AT_ONCE} images is given**; the base optimizer's part of it is taken off. Other "
            f"networks: FLOPs times an assumed utilisation.\n\n    {EXAMPLE}: s = {AT_ONCE} / ({AT_ONCE} / {said:,.0f} - "
            f"{base} x {FLOAT} x {network.parameters:,} / {machine.memory_bytes_per_s:.3g}) = {speed:,.0f} images/s"
        )
    else:
        how = (
            f"**s was not measured on a GPU**: it is FLOPs times an assumed utilisation,\n\n"
            f"    {EXAMPLE}: s = {flops:.4g} x {used:g} / (3 x {network.forward_flops:,}) = {speed:,.0f} images/s"
        )
    gsam, sam = machine.copies["gsam"], machine.copies["sam"]
    peak, reached = value("gpu_memory_bytes_per_s"), machine.memory_bytes_per_s
    node, fast, slow = (
        each / 1e9
        for each in (value("nvlink_bytes_per_s"), value("network_bytes_per_s"), value("slow_network_bytes_per_s"))
    )
    worked = "\n".join(_worked(method, network, inputs, gpus) for method, gpus in WORKED)
    return f"""\
## Time of a step

    t = passes x batches x n / s  +  F x {FLOAT} N / W  +  what of the all-reduces nothing hides
    n = {BATCH:,} / R: images of one GPU and batch
    s = images/s of one GPU through forward and backward, which together are three times the forward's FLOPs
    F = floats read or written per weight beyond the passes, operation by operation
    W = {peak:.3g} x {value("memory_share"):g} = {reached:.3g} bytes/s
    one all-reduce of x bytes = latency + 2 (R - 1) / R x / B; DDP makes one per bucket of {value("bucket_bytes") / 2**20:g} MiB
    B = {node:g} x {share:g} = {node * share:g} GB/s within a node
    B = {fast:g} x {share:g} = {fast * share:g} GB/s across nodes: a ring enters and leaves a node once, over all its ports
    B = {slow:g} x {share:g} = {slow * share:g} GB/s across nodes with the slow network

{how}

F is the sum of

* the base optimizer: AdamW {cost.ADAMW_FLOATS} or SGD with momentum {cost.SGD_FLOATS}, torch's, not fused;
* the gradient's norm and clipping: {cost.NORM_FLOATS};
* for each group: GSAM {gsam:.2f} or SAM {sam:.2f}, and {cost.BANK_FLOATS} where there are several; scope=global: once per step;
* between GPUs: {cost.FLAT_FLOATS} for the flat all-reduce of SAM's family, {cost.DDP_FLOATS} for each of DDP's;
* {cost.ADD_FLOATS} for each further micro-batch of a pass where there are no groups;
* Entropy-SGD: {cost.ENTROPY_FLOATS} for each inner step, and {cost.ENTROPY_ONCE}.

**Overlap.** SAM's family reduces after its last pass: nothing hides it. DDP's reductions run during the backward of the last
micro-batch, 2/3 of its time, but for the last bucket and the small floats.

{worked}"""


def _worked(method: Method, network: Network, inputs: Inputs, gpus: int) -> str:
    machine = inputs.machine
    found, alone = (step(method, network, machine, n, BATCH, AT_ONCE) for n in (gpus, 1))
    images = BATCH // gpus
    pieces = images // AT_ONCE
    floats = moved_floats(method, network, machine, gpus, pieces)
    speed = machine.images_per_s(network)
    share = f"2 x {gpus - 1} / {gpus}"
    one = FLOAT * (payload_floats(method, network, gpus) if method.local else network.parameters)
    bus, latency = machine.bus_bytes_per_s(gpus), machine.latency_s(gpus)
    moved = f"{floats:.2f} x {FLOAT} x {network.parameters:,} / {machine.memory_bytes_per_s:.3g}"
    lines = [
        f"{network.name}, {method.label}, R = {gpus}: n = {images}, {pieces} x {AT_ONCE}",
        f"passes:   {method.passes} x {images} / {speed:,.0f} = {ms(found.compute_s)}",
        f"weights:  F = {_sum(method, network, machine, gpus, pieces)}: {moved} = {ms(found.memory_s)}",
    ]
    calls = "" if method.local else f"{cost.buckets(network, machine)} x "
    reduce = f"{calls}{latency:g} + {share} x {one:,} / {bus:.3g}"
    if gpus == 1:
        pass
    elif method.local:
        lines.append(f"wire:     {reduce} = {ms(found.reduce_s)}, all of it exposed")
    else:
        whole = cost.reduce_s(network.parameters, machine, gpus, cost.buckets(network, machine))
        hidden = hidden_s(AT_ONCE / speed)
        last = last_bucket_s(network, machine, gpus)
        small = cost.reduce_s(small_floats(method, network, gpus), machine, gpus)
        lines += [
            f"wire:     {reduce} = {ms(whole)}, of which 2 / 3 x {AT_ONCE} / {speed:,.0f} = {ms(hidden)} can be hidden",
            f"exposed:  {ms(max(0.0, whole - hidden))}, but the last bucket at least: {ms(last)}; with the small floats, "
            f"{ms(small)}: {ms(found.exposed_s)}",
        ]
    if gpus == 1:
        lines.append(f"t(1) = {ms(found.seconds)}")
        return _block(lines)
    lines.append(
        f"t(R) = {ms(found.seconds)}; t(1) = {ms(alone.seconds)}; efficiency = t(1) / (R t(R)) = "
        f"{100 * alone.seconds / gpus / found.seconds:.0f} %"
    )
    return _block(lines)


def _block(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines) + "\n"


def _sum(method: Method, network: Network, machine: Machine, gpus: int, pieces: int) -> str:
    """F as the sum that it is, of a method of WORKED."""
    words = [str(cost.BASE_FLOATS[cost.kind(network)])]
    if method.local:
        own = machine.copies[method.name]
        words.append(f"{pieces} x ({own:.2f} + {cost.BANK_FLOATS})" if pieces > 1 else f"{own:.2f}")
    elif pieces > 1:
        words.append(f"{pieces - 1} x {cost.ADD_FLOATS}")
    words += [str(cost.FLAT_FLOATS if method.local else cost.DDP_FLOATS)] * (gpus > 1)
    return f"{' + '.join(words)} = {moved_floats(method, network, machine, gpus, pieces):.2f}"
