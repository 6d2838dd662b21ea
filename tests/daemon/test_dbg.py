from tests.daemon.test_run import *
from tests.daemon.test_run import registry
async def test_work_dbg(tmp_path: Path, registry: MemoryRegistry) -> None:
    async with build_app(config(tmp_path / "s")) as app:
        await app.queue.put(SweepRequest(registry="prod"), Lane.NOW)
        print(await app.queue.take("of a process that was killed", list(Lane)))
    async with running(config(tmp_path / "s"), {"prod": registry}) as sensor:
        await asyncio.sleep(1)
        for e in sensor.events: print(e)
        print(await sensor.sql("select * from work"))
        print(sensor.daemon._held)
        await asyncio.sleep(6)
        for e in sensor.events: print(e)
        assert 0
