// Tests with nostr-fetch. It accepts only an EOSE with two elements: https://github.com/jiftechnify/nostr-fetch
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { NostrFetcher } from 'nostr-fetch'
import { Relay } from 'nostr-tools/relay'
import { WebSocket } from 'ws'
import { author, idsOf, PATIENCE_MS, startRelay, within } from './relay.mjs'

const { pubkey, sign } = author()
const notes = Array.from({ length: 30 }, () => sign({ tags: [['t', 'fetched']] }))
const profile = sign({ kind: 0, content: '{}' })
// It stops waiting for an EOSE after ten seconds and returns what it has, which would look like an answer.
const options = { abortSubBeforeEoseTimeoutMs: 4 * PATIENCE_MS }

let server, fetcher
before(async () => {
  server = await startRelay()
  const relay = await Relay.connect(server.url)
  for (const event of [...notes, profile]) await relay.publish(event)
  relay.close()
  fetcher = NostrFetcher.init({ webSocketConstructor: WebSocket, minLogLevel: 'warn' })
})
after(async () => {
  fetcher.shutdown()
  await server.stop()
})

/** What nostr-fetch finds, which must not find fault with any message. */
async function found(t, what, fetching) {
  const complaints = ['error', 'warn'].map(level => t.mock.method(console, level, () => {}))
  const answer = await within(what, fetching)
  for (const { mock } of complaints) assert.deepEqual(mock.calls.map(call => call.arguments), [])
  return answer
}

test('nostr-fetch: all events, page by page until a page is empty', async t => {
  const fetching = fetcher.fetchAllEvents([server.url], { authors: [pubkey], kinds: [1] }, {}, { ...options, limitPerReq: 7, sort: true })
  assert.deepEqual(idsOf(await found(t, 'all events', fetching)), idsOf(notes.toReversed()))
})

test('nostr-fetch: the latest events, and the last of each author', async t => {
  const filter = { '#t': ['fetched'], authors: [pubkey] }
  const latest = await found(t, 'the latest', fetcher.fetchLatestEvents([server.url], filter, 5, options))
  assert.deepEqual(idsOf(latest), idsOf(notes.slice(-5).toReversed()))
  const last = await found(t, 'the last', fetcher.fetchLastEvent([server.url], { kinds: [0], authors: [pubkey] }, options))
  assert.equal(last.id, profile.id)
  const nothing = fetcher.fetchLastEvent([server.url], { kinds: [3], authors: [pubkey] }, options)
  assert.equal(await found(t, 'an empty answer', nothing), undefined)
})
