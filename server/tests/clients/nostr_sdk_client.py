"""Tests with nostr-sdk for Python; nostr-sdk.test.mjs runs this program with the relay's address as its argument."""

import asyncio
import json
import os
import sys
import time
import unittest
from datetime import timedelta

from nostr_sdk import Client, ClientBuilder, Filter, Keys, Kind, RelayUrl, ReqTarget, SignerAuthenticator
from nostr_sdk import UnsignedEvent, uniffi_set_event_loop

PATIENCE = timedelta(seconds=15)
# Timeout of the client, longer than that of the test, so that a timeout is never taken for an answer.
LONGER = timedelta(seconds=60)


class Conversation(unittest.IsolatedAsyncioTestCase):
    url: RelayUrl

    async def asyncSetUp(self):
        # It calls back for signatures, from threads of its own, which the loop's debug mode would not have.
        loop = asyncio.get_running_loop()
        loop.set_debug(False)
        uniffi_set_event_loop(loop)
        self.keys = Keys.generate()
        self.clock = int(time.time()) - 10_000
        self.client = await self.connected()

    async def asyncTearDown(self):
        await self.client.shutdown()

    async def connected(self, client=None):
        client = client or Client()
        await client.add_relay(self.url)
        await client.connect(PATIENCE)
        return client

    def signed(self, kind, tags=(), keys=None):
        keys = keys or self.keys
        self.clock += 1
        event = {"pubkey": keys.public_key().to_hex(), "created_at": self.clock, "kind": kind}
        event |= {"tags": [list(tag) for tag in tags], "content": f"note {self.clock}"}
        return UnsignedEvent.from_json(json.dumps(event)).sign(keys)

    def mine(self, kind):
        return Filter().author(self.keys.public_key()).kind(Kind(kind))

    async def within(self, what, awaitable):
        try:
            return await asyncio.wait_for(awaitable, PATIENCE.total_seconds())
        except asyncio.TimeoutError:
            self.fail(f"{what}: nothing after {PATIENCE}")

    async def publish(self, client, event):
        output = await self.within("OK", client.send_event(event, ok_timeout=LONGER))
        self.assertEqual(output.failed, {})

    async def stored(self, wanted, client=None):
        found = await self.within("the answer", (client or self.client).fetch_events(ReqTarget.auto([wanted]), LONGER))
        return [event.id().to_hex() for event in found]

    async def test_what_is_published_is_found_and_nothing_else(self):
        notes = [self.signed(1) for _ in range(10)]
        for note in notes:
            await self.publish(self.client, note)
        self.assertEqual(await self.stored(self.mine(1)), [note.id().to_hex() for note in reversed(notes)])
        self.assertEqual(await self.stored(self.mine(3)), [])

    async def test_a_live_subscription_gets_what_another_connection_publishes(self):
        other = await self.connected()
        notifications = self.client.notifications()
        await self.client.subscribe(ReqTarget.auto([self.mine(1111)]))
        # The subscription is live once a later request has been answered.
        await self.stored(self.mine(3))
        comments = [self.signed(1111) for _ in range(5)]
        for comment in comments:
            await self.publish(other, comment)
        seen = []
        while len(seen) < len(comments):
            notification = await self.within("a live event", notifications.next())
            if notification.is_NEW_EVENT():
                seen.append(notification.event.id().to_hex())
        self.assertEqual(seen, [comment.id().to_hex() for comment in comments])
        await other.shutdown()

    async def test_with_a_signer_it_gets_what_needs_auth(self):
        mail = self.signed(1059, [("p", self.keys.public_key().to_hex())], Keys.generate())
        await self.publish(self.client, mail)
        own = await self.connected(ClientBuilder().authenticator(SignerAuthenticator(self.keys)).build())
        mailbox = Filter().kind(Kind(1059)).pubkey(self.keys.public_key())
        self.assertEqual(await self.stored(mailbox, own), [mail.id().to_hex()])
        await self.publish(own, self.signed(1, [("-",)]))
        await own.shutdown()


if __name__ == "__main__":
    Conversation.url = RelayUrl.parse(sys.argv.pop())
    passed = unittest.main(verbosity=2, exit=False).result.wasSuccessful()
    # Its threads go on while the interpreter is taken apart, which may crash.
    sys.stderr.flush()
    os._exit(0 if passed else 1)
