from pathlib import Path
from tests.fakes.pipeline import *
async def test_x(tmp_path):
    async with bench(tmp_path/"s", advisories={"jinja2":"3.0"}) as b:
        b.registry.image("team/app","v1",[python_layer("jinja2","2.10")])
        await b.sweep()
        print(await b.ledger())
        await b.work()
        print(await b.ledger(), await b.envelopes(), b.registry.calls, b.filled)
        for e in b.events: print(e)
        assert 0
