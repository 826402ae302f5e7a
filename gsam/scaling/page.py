"""docs/scaling.md: every formula with its numbers."""

from pathlib import Path

from gsam.recipes import TRAINING_PICTURES
from gsam.scaling.cost import GPUS_PER_NODE, Machine, Step, efficiency, step
from gsam.scaling.inputs import COUNTED, MEASURED, STATED, Inputs
from gsam.scaling.recipe import recipe_section
from gsam.scaling.text import AT_ONCE, BATCH, ENTROPY, EXAMPLE, GLOBAL, GSAM, VANILLA, mb, ms, table
from gsam.scaling.times import time_section
from gsam.scaling.traffic import METHODS, SIGNAL_BYTES, payload_floats, small_floats, wire_bytes

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, PICTURE = DOCS / "scaling.md", DOCS / "img" / "scaling.png"

HEAD = """\
<!-- Written by scripts/scaling.py. Do not edit. -->
# More GPUs: what they bring

**Worked out for H100s, not measured on GPUs.** Counted: parameters, FLOPs, what a step sends and moves
(`tests/integration/test_scaling.py` counts them in real steps). Measured on a CPU: the loader, and what SAM and GSAM do to the
weights ([benchmarks.md](benchmarks.md)). The rest are assumptions, marked under [Inputs](#inputs). With your own GPU's speed:
`python scripts/scaling.py --images-per-second vit_b32=9000 --out mine.md`.

Global batch {batch:,}, 224 pixels, {at_once} images at a time: the group of one perturbation (m) in Table 1, and the
micro-batch of methods without groups. R is the number of GPUs, N the network's parameters.
"""


def page(inputs: Inputs, picture: str) -> str:
    parts = [
        HEAD.format(batch=BATCH, at_once=AT_ONCE),
        _short(inputs),
        recipe_section(BATCH, AT_ONCE),
        _efficiency(inputs, picture),
        _traffic(inputs),
        _loader(inputs),
        _limits(inputs),
        time_section(inputs),
        _inputs(inputs),
    ]
    return "\n".join(parts)


def _short(inputs: Inputs) -> str:
    """What to do, in the page's own numbers."""
    places = ((inputs.machine, 8), (inputs.machine, 64), (inputs.slow, 64))
    spans, worth = [], []
    for machine, gpus in places:
        found = {name: efficiency(GSAM, each, machine, gpus, BATCH, AT_ONCE) for name, each in inputs.networks.items()}
        low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        spans.append(f"{100 * found[low]:.0f} % ({low}) to {100 * found[high]:.0f} % ({high})")
        worth.append(f"{gpus * found[EXAMPLE]:.1f}")
    fast, slow = (8 * inputs.value(f"{key}_bytes_per_s") / 1e9 for key in ("network", "slow_network"))
    one_core = inputs.loader["images_per_core_s"]["ours_jpeg_inception"]
    busy = sorted(
        (step(GSAM, each, inputs.machine, 8, BATCH, AT_ONCE).images_per_s / one_core, each.name)
        for each in inputs.networks.values()
    )
    cores = " to ".join(f"{value:.1f} ({name})" for value, name in (busy[0], busy[-1]))
    return f"""\
## In short

* **Recipe**: leave `train.batch_size={BATCH}` and `optimizer.group_size={AT_ONCE}` as they are: the update is the same on
  1, 2, 4, … {BATCH // AT_ONCE} GPUs; other numbers are refused.
* **8 GPUs of one node**: GSAM's efficiency is {spans[0]}.
* **64 GPUs, {fast:,.0f} Gb/s per node**: {spans[1]}.
* **64 GPUs, {slow:,.0f} Gb/s per node**: {spans[2]}. {EXAMPLE} does the work of {worth[2]} GPUs
  there, and of {worth[0]} on one node: where the two are close, run one training per node.
* **Traffic**: SAM and GSAM with groups send what vanilla sends; `scope=global` twice that, Entropy-SGD L times.
* **Loader**: GSAM on one node keeps {cores} cores per GPU busy with `500_jpeg90`; vanilla
  about twice as many. `256_raw` takes fewer cores and more disk, and its pixels are not the paper's.
"""


def _inputs(inputs: Inputs) -> str:
    rows = [[f"`{key}`", f"{float(entry['value']):g}", entry["source"]] for key, entry in inputs.stated.items()]
    optimizer, loader = inputs.optimizer, inputs.loader
    steps, reading = (f"measured: {MEASURED.relative_to(DOCS)}, {row['machine']}" for row in (optimizer, loader))
    rows += [
        ["GSAM's floats per weight and group", f"12 x {optimizer['ratio_to_floor']:.3f}", steps],
        ["SAM's, of GSAM's", f"{optimizer['sam_overhead_s'] / optimizer['gsam_overhead_s']:.3f}", steps],
        *(
            [f"loader, {text}, images/s of one core", f"{loader['images_per_core_s'][key]:,.0f}", reading]
            for key, text in (("ours_jpeg_inception", "`500_jpeg90`"), ("ours_raw_inception", "`256_raw`"))
        ),
    ]
    rows += [[f"images/s of one GPU, {name}", f"{value:,.0f}", "given on the command line"]
             for name, value in inputs.machine.given.items()]  # fmt: skip
    return f"## Inputs\n\n{table(['input', 'value', 'source'], rows)}"


def _traffic(inputs: Inputs) -> str:
    network, ranks = inputs.networks[EXAMPLE], 8
    rows = []
    for method in METHODS:
        small = small_floats(method, network, ranks) - ranks - network.buffers
        when = "once, after the last pass" if method.local else "by DDP, overlapped with each synchronised backward"
        rows.append([method.label, str(method.reductions), when, f"{small:,} + R + BatchNorm's"])
    methods = table(["method", "all-reduces of N floats", "when", f"further floats ({EXAMPLE})"], rows)
    sizes = [
        [
            each.name,
            f"{each.parameters:,}",
            *(f"{wire_bytes(m, each, ranks) / 1e6:,.0f}" for m in (GSAM, GLOBAL, ENTROPY)),
        ]
        for each in inputs.networks.values()
    ]
    few, many = (payload_floats(GSAM, network, gpus) for gpus in (8, 64))
    return f"""\
## Bytes over the wire

Per step, gradients in float32 whatever `train.precision`:

{methods}
SAM, ASAM, GSAM and weighted SAM perturb from each group's own gradient: nothing of the first pass leaves the GPU, and the
step sends no more than vanilla's. `optimizer.scope=global` perturbs from the gradient of the whole batch, which has to be
averaged first: two. Entropy-SGD averages each of its L inner gradients. Accumulation and the number of groups change nothing.
The further floats are the step's numbers, one per rank that says whether its numbers are finite, BatchNorm's running
statistics, and for SAM's family one per parameter tensor that says whether it had a gradient. Each step also sends
{SIGNAL_BYTES} bytes over gloo (has a rank been asked to leave?); logging, evaluating and saving compare the ranks' weights by
one int64 per tensor, twice.

A ring all-reduce sends 2 (R - 1) / R times its floats from every GPU, and as much arrives:

    {EXAMPLE}, GSAM, R = 8: {network.parameters:,} + {few - network.parameters} = {few:,} floats
    R = 8:   2 x 7 / 8 x 4 x {few:,} / 1e6 = {mb(wire_bytes(GSAM, network, 8))} MB
    R = 64:  2 x 63 / 64 x 4 x {many:,} / 1e6 = {mb(wire_bytes(GSAM, network, 64))} MB

MB that every GPU sends per step, R = {ranks}:

{table(["network", "N", f"vanilla; SAM and {GSAM.label}", GLOBAL.label, ENTROPY.label], sizes)}"""


def _efficiency(inputs: Inputs, picture: str) -> str:
    places: list[tuple[Machine, int]] = [(inputs.machine, 8), (inputs.machine, 64), (inputs.slow, 64)]
    rows = [
        [network.name, f"{inputs.machine.images_per_s(network):,.0f}"]
        + [
            " / ".join(
                f"{100 * efficiency(method, network, machine, gpus, BATCH, AT_ONCE):.0f}" for machine, gpus in places
            )
            for method in METHODS
        ]
        for network in inputs.networks.values()
    ]
    ratios = []
    for name in ("vit_b32", "vit_b16", "resnet50"):
        network, cells = inputs.networks[name], []
        for machine, gpus in ((inputs.machine, 1), *places):
            times = [step(m, network, machine, gpus, BATCH, AT_ONCE).seconds for m in (VANILLA, GSAM, GLOBAL)]
            cells.append(f"{times[1] / times[0]:.2f} / {times[2] / times[0]:.2f}")
        ratios.append([name, *cells])
    fast, slow = (8 * inputs.value(f"{key}_bytes_per_s") / 1e9 for key in ("network", "slow_network"))
    shown = ["network", "1 GPU", "8 GPUs", f"64, {fast:,.0f} Gb/s", f"64, {slow:,.0f} Gb/s"]
    return f"""\
## Efficiency

t(1) / (R t(R)), t being the [time of a step](#time-of-a-step), in %:
8 GPUs of one node / 64 GPUs, {fast:,.0f} Gb/s per node / 64 GPUs, {slow:,.0f} Gb/s per node.
The batch is the same everywhere, hence the result. s: images/s of one GPU, assumed unless it was given.

{table(["network", "s, images/s", *(m.label for m in METHODS)], rows)}
![Efficiency against the number of GPUs]({picture})

Time of a GSAM step over that of a vanilla step, m = {AT_ONCE} / scope=global. Two passes alone are 2.00. Each group adds
traffic over the weights; the base optimizer comes once in both, and with groups so does the reduction: where the network
between nodes is the limit, GSAM with groups costs little more than vanilla.

{table(shown, ratios)}"""


def _loader(inputs: Inputs) -> str:
    cores = inputs.loader["images_per_core_s"]
    jpeg, raw = cores["ours_jpeg_inception"], cores["ours_raw_inception"]
    rows = []
    for name in ("vit_b32", "vit_b16", "mixer_s8", "resnet50"):
        for method in (VANILLA, GSAM):
            found: Step = step(method, inputs.networks[name], inputs.machine, 8, BATCH, AT_ONCE)
            wanted = found.images_per_s
            rows.append(
                [name, method.label, f"{wanted:,.0f}", f"{wanted / jpeg:.1f}", f"{wanted / raw:.1f}",
                 f"{GPUS_PER_NODE * wanted * inputs.value('jpeg_mb_per_1000') / 1e3:,.0f}",
                 f"{GPUS_PER_NODE * wanted * inputs.value('raw_mb_per_1000') / 1e3:,.0f}"]
            )  # fmt: skip
    found = step(GSAM, inputs.networks[EXAMPLE], inputs.machine, 8, BATCH, AT_ONCE)
    pictures = TRAINING_PICTURES["imagenet"]
    sizes = [
        [f"`{preset}`", split, f"{n:,} x {inputs.value(key):g} MB / 1,000", f"{n * inputs.value(key) / 1e6:,.1f}"]
        for preset, split, n, key in (
            ("500_jpeg90", "train", pictures, "jpeg_mb_per_1000"),
            ("256_raw", "train", pictures, "raw_mb_per_1000"),
            ("val", "val", 50_000, "val_mb_per_1000"),
        )
    ]
    head = ["network", "method, R = 8", "images/s per GPU", "cores per GPU, `500_jpeg90`", "cores per GPU, `256_raw`"]
    head += ["MB/s per node, `500_jpeg90`", "MB/s per node, `256_raw`"]
    n, wanted = BATCH // 8, found.images_per_s
    return f"""\
## Loader and storage

A GPU wants batches x n / t new images per second; both passes of SAM and GSAM see the same ones. Cores: that over the images
per second of one core, measured on {inputs.loader["machine"]} with the Inception crop: `500_jpeg90` {jpeg:,.0f}, `256_raw`
{raw:,.0f}. Reading, for a node of 8 GPUs: 8 x images/s x MB per 1,000 / 1,000; nothing where the file lies in the page cache.

    {EXAMPLE}, GSAM, R = 8:
    1 x {n} / {found.seconds:.5f} s = {wanted:,.0f} images/s
    {wanted:,.0f} / {jpeg:,.0f} = {wanted / jpeg:.2f} cores

{table(head, rows)}
The files, in GB, from the sizes of [data.md](data.md) (ImageNet itself: not run). To stay in memory the training file must
fit into each node's; else `data.order` reads blocks:

{table(["preset", "split", "", "GB"], sizes)}"""


def _limits(inputs: Inputs) -> str:
    shortest = ms(AT_ONCE / inputs.machine.images_per_s(inputs.networks["vit_s32"]))
    files = ", ".join(f"[{path.name}](bench/{path.name})" for path in (STATED, COUNTED, MEASURED))
    return f"""\
## What this leaves out

* Passes of a few milliseconds are limited by the host that starts the kernels, not by FLOPs: the smallest networks on 64
  GPUs (`vit_s32`: {shortest} per pass) will be slower than it says.
* More images at a time, where they fit, make s larger and vanilla's accumulation cheaper.
* Evaluation, checkpoints, the first batch, stragglers, other users of the network.
* On GPUs: **not run**. What replaces an assumed speed: 64 / vanilla_s of
  `python scripts/bench/train_step.py --model vit_base_patch32_224 --batch 64` on one GPU, given as `--images-per-second`; the
  base optimizer in it is taken off.

The arithmetic is `gsam/scaling/`, its inputs {files}.
"""
