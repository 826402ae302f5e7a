"""What more GPUs bring: bytes over the wire, step time and efficiency, what the loader must give. Arithmetic, no measurement.

count.py counts networks; traffic.py says what a step all-reduces (tested against two real ranks); cost.py has the formulas;
page.py writes docs/scaling.md with every number in them.
"""
