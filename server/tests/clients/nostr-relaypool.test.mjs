// Tests with nostr-relaypool. It ignores an EOSE with more than two elements, and has no timeout.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { RelayPool } from 'nostr-relaypool'
import { author, idsOf, startRelay, until, within } from './relay.mjs'

const { pubkey, sign } = author()
const notices = []

let server, pool
before(async () => {
  server = await startRelay()
  pool = new RelayPool([server.url], { logErrorsAndNotices: false })
  pool.onnotice((_, notice) => notices.push(notice))
  pool.onerror((_, error) => notices.push(error))
})
after(async () => {
  await pool.close()
  await server.stop()
  assert.deepEqual(notices, [])
})

/** Publishes by a pool and waits for the OK. */
function publish(by, event) {
  return new Promise((resolve, reject) => {
    const publication = by.addOrGetRelay(server.url).publish(event)
    publication.on('ok', resolve)
    publication.on('failed', reason => reject(new Error(reason)))
  })
}

/** The stored events up to EOSE. */
function stored(filters) {
  return new Promise(resolve => {
    const events = []
    const onEose = () => {
      unsubscribe()
      resolve(events)
    }
    const unsubscribe = pool.subscribe(filters, [server.url], event => events.push(event), undefined, onEose)
  })
}

test('nostr-relaypool: what is published is found, and nothing else', async () => {
  const notes = Array.from({ length: 10 }, () => sign({ tags: [['t', 'pooled']] }))
  for (const note of notes) await within('OK', publish(pool, note))
  const found = await within('the answer', stored([{ authors: [pubkey], '#t': ['pooled'] }]))
  assert.deepEqual(idsOf(found), idsOf(notes.toReversed()))
  assert.deepEqual(await within('an empty answer', stored([{ authors: [pubkey], kinds: [3] }])), [])
  const forged = { ...sign({ content: 'true' }), content: 'false' }
  await assert.rejects(within('a refusal', publish(pool, forged)), /^Error: invalid:/)
})

test('nostr-relaypool: a live subscription gets what another connection publishes', async () => {
  const other = new RelayPool([server.url], { logErrorsAndNotices: false })
  const seen = []
  let unsubscribe
  const eose = new Promise(onEose => {
    const onEvent = (event, afterEose) => seen.push([event.id, afterEose])
    unsubscribe = pool.subscribe([{ authors: [pubkey], kinds: [1111] }], [server.url], onEvent, undefined, onEose)
  })
  await within('EOSE', eose)
  const comments = Array.from({ length: 5 }, () => sign({ kind: 1111 }))
  for (const comment of comments) await within('OK', publish(other, comment))
  await until('all live events', () => seen.length >= comments.length)
  assert.deepEqual(seen, comments.map(comment => [comment.id, true]))
  unsubscribe()
  await other.close()
})
