#!/usr/bin/env python
"""Care for what is stored: see that it is whole, how large it is; put runs into the trash.

python bin/store.py verify                         # reads every file again; exit code 1 where one is damaged
python bin/store.py reindex                        # _catalog.jsonl and _runs.jsonl, from the directories
python bin/store.py du
python bin/store.py rm status=bad sampler=sgld     # moves to <root>/trash/
python bin/store.py restore runs/trash/20260101T120000_000000
"""

from lambda_hat.commands import store as care

if __name__ == "__main__":
    care.main(__doc__)
