// Tests with nostr-tools.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from 'nostr-tools/pure'
import { matchFilters } from 'nostr-tools/filter'
import { Relay, useWebSocketImplementation } from 'nostr-tools/relay'
import { SimplePool, useWebSocketImplementation as usePoolWebSocket } from 'nostr-tools/pool'
import { wrapEvent, unwrapEvent } from 'nostr-tools/nip17'
import { fetchRelayInformation, useFetchImplementation } from 'nostr-tools/nip11'
import { WebSocket } from 'ws'
import { author, idsOf, now, realEvents, startRelay } from './relay.mjs'

useFetchImplementation(fetch)
useWebSocketImplementation(WebSocket)
usePoolWebSocket(WebSocket)

const { key, pubkey, sign } = author()

/** Answers' order by NIP-01. */
const newestFirst = (a, b) => b.created_at - a.created_at || (a.id < b.id ? -1 : 1)

/** The stored answer to a subscription, as an array in the order received. */
function stored(relay, filters) {
  return new Promise((resolve, reject) => {
    const events = []
    const sub = relay.subscribe(filters, {
      onevent: event => events.push(event),
      oneose: () => {
        resolve(events)
        sub.close()
      },
      onclose: reason => reject(new Error(reason)),
      eoseTimeout: 20_000,
    })
  })
}

/** An event without nostr-tools' mark that it has been verified. */
const plain = event => JSON.parse(JSON.stringify(event))

let server, relay
before(async () => {
  server = await startRelay()
  relay = await Relay.connect(server.url)
})
after(async () => {
  relay.close()
  await server.stop()
})

test('what is published is read back, whatever its characters', async () => {
  const content = 'tab\t quote" back\\ slash/ \u0001 \u007f é 漢 🤙 \u2028 \ud83d\ude00 line\nend'
  const event = sign({ content, tags: [['t', content], ['e', 'a'.repeat(64), '', 'root'], ['-x', '']] })
  assert.equal(await relay.publish(event), '')
  const [back] = await stored(relay, [{ ids: [event.id] }])
  assert.deepEqual(plain(back), plain(event))
  assert.ok(verifyEvent(plain(back)))
  assert.deepEqual(idsOf(await stored(relay, [{ '#t': [content] }])), [event.id])
})

test('publishing twice is a duplicate, a forgery is refused', async () => {
  const event = sign({ content: 'once' })
  await relay.publish(event)
  assert.match(await relay.publish(event), /^duplicate:/)
  const forged = { ...sign({ content: 'true' }), content: 'false' }
  await assert.rejects(relay.publish(forged), /^Error: invalid:/)
  const other = sign({ content: 'other' })
  await assert.rejects(relay.publish({ ...other, sig: event.sig }), /^Error: invalid:/)
})

test('a live subscription sees new events of every connection once', async () => {
  const other = await Relay.connect(server.url)
  const seen = []
  const eose = new Promise(resolve => {
    relay.subscribe([{ kinds: [1], '#t': ['live'] }, { authors: [pubkey], kinds: [20001] }], {
      onevent: event => seen.push(event.id),
      oneose: resolve,
    })
  })
  await eose
  const sent = []
  for (let i = 0; i < 50; i++) {
    const event = sign(i % 5 ? { tags: [['t', 'live']], content: `${i}` } : { kind: 20001, content: `${i}` })
    sent.push(event.id)
    await (i % 2 ? other : relay).publish(event)
  }
  // A later frame of the same connection shows that nothing else was sent before.
  await stored(relay, [{ limit: 0 }])
  assert.deepEqual(new Set(seen), new Set(sent))
  assert.equal(seen.length, sent.length)
  other.close()
})

test('replaceable and addressable events keep their newest version', async () => {
  const at = now() - 9_000
  const old = sign({ kind: 0, content: 'old', created_at: at })
  const fresh = sign({ kind: 0, content: 'new', created_at: at + 1 })
  await relay.publish(fresh)
  await assert.rejects(relay.publish(old))
  assert.deepEqual(idsOf(await stored(relay, [{ kinds: [0], authors: [pubkey] }])), [fresh.id])
  const article = (d, t) => sign({ kind: 30023, tags: [['d', d]], created_at: t })
  const [a1, a2, b1] = [article('a', at), article('a', at + 5), article('b', at)]
  for (const event of [a1, a2, b1]) await relay.publish(event)
  const back = await stored(relay, [{ kinds: [30023], authors: [pubkey] }])
  assert.deepEqual(back.map(e => e.id), [a2.id, b1.id])
  assert.deepEqual(idsOf(await stored(relay, [{ '#d': ['a'], authors: [pubkey] }])), [a2.id])
})

test('deletion, expiration, and what stays gone', async () => {
  const victim = sign({ content: 'regret' })
  await relay.publish(victim)
  await relay.publish(sign({ kind: 5, tags: [['e', victim.id], ['k', '1']] }))
  assert.deepEqual(await stored(relay, [{ ids: [victim.id] }]), [])
  await assert.rejects(relay.publish(victim), /^Error: blocked:/)
  await assert.rejects(relay.publish(sign({ tags: [['expiration', `${now() - 5}`]] })), /expired/)
  const brief = sign({ tags: [['expiration', `${now() + 6}`]], content: 'brief' })
  await relay.publish(brief)
  assert.equal((await stored(relay, [{ ids: [brief.id] }])).length, 1)
  await new Promise(resolve => setTimeout(resolve, 7_000))
  assert.equal((await stored(relay, [{ ids: [brief.id] }])).length, 0)
})

test('counts, with HyperLogLog for reactions', async () => {
  const target = sign({ content: 'liked' })
  await relay.publish(target)
  for (let i = 0; i < 12; i++) {
    await relay.publish(sign({ kind: 7, content: '+', tags: [['e', target.id]] }, generateSecretKey()))
  }
  const reactions = [{ kinds: [7], '#e': [target.id] }]
  assert.equal(await relay.count(reactions, {}), 12)
  const { count, hll } = await relay.countWithHLL(reactions, {})
  assert.equal(count, 12)
  assert.match(hll, /^[0-9a-f]{512}$/)
})

test('AUTH: protected events and gift wraps', async () => {
  const protectedEvent = sign({ tags: [['-']], content: 'members only' })
  const fresh = await Relay.connect(server.url)
  await assert.rejects(fresh.publish(protectedEvent), /auth-required/)
  await fresh.auth(async template => finalizeEvent(template, key))
  assert.equal(await fresh.publish(protectedEvent), '')

  const [friend, stranger] = [generateSecretKey(), generateSecretKey()]
  const wrapped = wrapEvent(key, { publicKey: getPublicKey(friend) }, 'psst')
  await relay.publish(wrapped)
  const mailbox = [{ kinds: [1059], '#p': [getPublicKey(friend)] }]
  const unauthenticated = await Relay.connect(server.url)
  await assert.rejects(stored(unauthenticated, mailbox), /auth-required/)
  await unauthenticated.auth(async template => finalizeEvent(template, stranger))
  await assert.rejects(stored(unauthenticated, mailbox), /restricted/)
  await assert.rejects(stored(unauthenticated, [{ ids: [wrapped.id] }]), /restricted/)
  await unauthenticated.auth(async template => finalizeEvent(template, friend))
    .catch(() => {})
  const own = await Relay.connect(server.url)
  await assert.rejects(stored(own, mailbox), /auth-required/)
  await own.auth(async template => finalizeEvent(template, friend))
  const [mail] = await stored(own, mailbox)
  assert.equal(unwrapEvent(mail, friend).content, 'psst')
  for (const each of [fresh, unauthenticated, own]) each.close()
})

test('SimplePool reads and publishes', async () => {
  const pool = new SimplePool()
  const events = [1, 2, 3].map(i => sign({ content: `pooled ${i}`, tags: [['t', 'pooled']] }))
  for (const event of events) await Promise.all(pool.publish([server.url], event))
  const back = await pool.querySync([server.url], { '#t': ['pooled'] })
  assert.deepEqual(back.map(e => e.id), events.toReversed().map(e => e.id))
  assert.equal((await pool.get([server.url], { '#t': ['pooled'] })).id, events[2].id)
  pool.close([server.url])
})

test('SimplePool authenticates once something needs it', async () => {
  const onauth = async template => finalizeEvent(template, key)
  const mail = author().sign({ kind: 1059, tags: [['p', pubkey]] })
  const protectedEvent = sign({ tags: [['-']] })
  const [reading, writing] = [new SimplePool(), new SimplePool()]
  await relay.publish(mail)
  const found = await reading.querySync([server.url], { kinds: [1059], '#p': [pubkey], ids: [mail.id] }, { onauth })
  assert.deepEqual(idsOf(found), [mail.id])
  await Promise.all(writing.publish([server.url], protectedEvent, { onauth }))
  assert.deepEqual(idsOf(await stored(relay, [{ ids: [protectedEvent.id] }])), [protectedEvent.id])
  for (const pool of [reading, writing]) pool.close([server.url])
})

test('NIP-11 says what is true', async () => {
  const info = await fetchRelayInformation(server.url)
  for (const nip of [1, 9, 11, 13, 17, 40, 42, 45, 59, 62, 70, 77]) assert.ok(info.supported_nips.includes(nip), `NIP-${nip}`)
  for (const nip of [50, 67]) assert.equal(info.supported_nips.includes(nip), false, `NIP-${nip}`)
  const page = await fetch(server.url.replace('ws', 'http'), { headers: { accept: 'text/html' } })
  assert.match(page.headers.get('content-type'), /^text\/html/)
  const limit = info.limitation.max_subid_length
  assert.equal(limit, 64)
  await assert.rejects(new Promise((resolve, reject) => {
    relay.onnotice = message => reject(new Error(message))
    relay.subscribe([{ limit: 1 }], { id: 'x'.repeat(limit + 1), oneose: resolve, onclose: reason => reject(new Error(reason)) })
  }))
})

describe('real events', () => {
  const events = realEvents()
  const expected = []

  test('every one is taken, or refused for a lawful reason', async () => {
    const anew = await startRelay()
    const conn = await Relay.connect(anew.url)
    // Each event is verified once, below, not again in each answer.
    conn.verifyEvent = () => true
    try {
      const publish = async event => {
        try {
          await conn.publish(event)
          if (event.kind < 20000 || event.kind >= 30000) expected.push(event)
        } catch (error) {
          assert.match(error.message, /^(invalid: a newer version|blocked: this event was deleted|invalid: the event has expired|auth-required: this event may only)/, JSON.stringify(event))
        }
      }
      for (let at = 0; at < events.length; at += 100) await Promise.all(events.slice(at, at + 100).map(publish))
      assert.ok(expected.length > events.length * 0.8, `${expected.length} of ${events.length}`)

      // nostr-tools' own matcher is the oracle; replaced and deleted events must not be found.
      const all = await stored(conn, [{ limit: 5000, until: 2 ** 40 }])
      const alive = new Set(all.map(e => e.id))
      for (const event of all) assert.ok(verifyEvent(plain(event)))
      assert.deepEqual(all.map(e => e.id), [...all].sort(newestFirst).map(e => e.id))
      const some = all.filter((_, i) => i % 40 === 0)
      const values = letter => [...new Set(all.flatMap(e => e.tags.filter(t => t[0] === letter && t.length > 1).map(t => t[1])))]
      const hex = list => list.filter(v => /^[0-9a-f]{64}$/.test(v))
      const shapes = [
        ...some.map(e => [{ ids: [e.id] }]),
        ...some.map(e => [{ authors: [e.pubkey] }]),
        ...some.map(e => [{ authors: [e.pubkey], kinds: [e.kind] }]),
        ...[...new Set(all.map(e => e.kind))].map(kind => [{ kinds: [kind] }]),
        ...some.map(e => [{ since: e.created_at, until: e.created_at + 86_400 }]),
        ...hex(values('e')).slice(0, 60).map(v => [{ '#e': [v] }]),
        ...hex(values('p')).slice(0, 60).map(v => [{ '#p': [v], kinds: [1, 7] }]),
        ...values('t').slice(0, 30).map(v => [{ '#t': [v] }]),
        ...values('d').slice(0, 30).map(v => [{ '#d': [v] }, { '#r': values('r').slice(0, 20) }]),
        [{ kinds: [1], limit: 7 }, { kinds: [0], limit: 3 }],
      ]
      for (const filters of shapes) {
        const answer = idsOf(await stored(conn, filters.map(f => ({ limit: 5000, ...f }))))
        const limited = filters.some(f => f.limit)
        const wanted = limited
          ? filters.flatMap(f => all.filter(e => matchFilters([f], e)).slice(0, f.limit))
          : all.filter(e => matchFilters(filters, e))
        const order = [...new Set(wanted)].sort(newestFirst).map(e => e.id)
        assert.deepEqual(answer, order, JSON.stringify(filters))
      }
      const isDeleted = e =>
        events.some(d => d.kind === 5 && d.pubkey === e.pubkey && d.tags.some(t => t[0] === 'e' && t[1] === e.id))
      assert.ok(expected.every(e => alive.has(e.id) || e.kind === 0 || e.kind === 3 || e.kind >= 10000 || isDeleted(e)))
    } finally {
      conn.close()
      await anew.stop()
    }
  })
})
