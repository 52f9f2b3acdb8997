"""What lets a run outlive the replica that drives it.

    leases      this replica's word that it drives its runs, renewed for all of them together
    families    a root run with every run below it, as their journals tell of it
    settling    what was in flight when a replica was lost, and what becomes of its money
    adopting    looks for runs that nobody drives, and has them driven here

How a run is driven on from there is nothing special: the loop's state is folded from the journal (`driving`), the
namespace comes back from the cell log (`sessions`), and recorded host calls answer again (`host_calls`).
"""
