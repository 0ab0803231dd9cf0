"""Syncs the events of an author both ways with nostr-sdk; negentropy.test.mjs runs this program.

nostr_sdk_sync.py URL PUBLIC_KEY < events.json; prints {"received": [ids], "sent": [ids]}.
"""

import asyncio
import json
import os
import sys
import tempfile
from datetime import timedelta

from nostr_sdk import ClientBuilder, Event, Filter, NostrLmdb, PublicKey, RelayUrl, SyncDirection, SyncOptions
from nostr_sdk import uniffi_set_event_loop


async def main(url, author, folder):
    uniffi_set_event_loop(asyncio.get_running_loop())
    database = await NostrLmdb.open(folder)
    for event in json.load(sys.stdin):
        await database.save_event(Event.from_json(json.dumps(event)))
    client = ClientBuilder().database(database).build()
    relay = RelayUrl.parse(url)
    await client.add_relay(relay)
    await client.connect(timedelta(seconds=15))
    options = SyncOptions().direction(SyncDirection.BOTH).initial_timeout(timedelta(seconds=60))
    output = await client.sync(Filter().author(PublicKey.parse(author)), opts=options)
    if output.failed:
        raise SystemExit(f"failed: {output.failed}")
    report = output.report
    ids = lambda events: [event.to_hex() for event in events]
    print(json.dumps({"received": ids(report.received), "sent": ids(report.sent)}), flush=True)


try:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(*sys.argv[1:], folder))
except BaseException as error:
    print(repr(error), file=sys.stderr, flush=True)
    # Its threads go on while the interpreter is taken apart, which may crash.
    os._exit(1)
os._exit(0)
