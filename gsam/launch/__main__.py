"""`python -m gsam.launch` is scripts/launch.py, for where the package is installed and the checkout is not at hand."""

import subprocess
import sys

HELP = """\
usage: {name} [torchrun's options] train.py [its settings]

torchrun under supervision, one command per host:

  python scripts/launch.py --standalone --nproc-per-node=8 train.py experiment=table1/vit_b32_gsam
  python scripts/launch.py --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=node1:29500 train.py …

SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 let the ranks save and leave. Nothing of a run is left behind, whichever process of it is
killed. Exit code 0: trained to the end. 75: asked to leave and saved, the same command continues. Others: that of the failure.
docs/machines.md has the rest. Everything before train.py is torchrun's, which says:
"""


def main(name: str = "python -m gsam.launch") -> int:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(name=name), flush=True)
        return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--help"]).returncode
    from gsam.launch.supervise import run

    try:
        return run(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
