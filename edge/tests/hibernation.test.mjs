// An object that loses its memory: connected clients do not notice.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, generateSecretKey, getPublicKey, metrics, now, sign, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

let edge
before(async () => {
  edge = await startEdge({ config: { limits: { requests_per_minute_max: 600, limit_max: 100_000 } } })
})
after(() => edge.stop())

test('subscriptions, challenge and authentication survive eviction', async () => {
  const [reader, writer] = [await Client.open(edge.url), await Client.open(edge.url)]
  const me = generateSecretKey()
  await reader.req('notes', { kinds: [1], '#t': ['survives'] })
  await reader.req('gone', { kinds: [1] })
  reader.send('CLOSE', 'gone')
  await reader.rest()
  const challenge = await reader.challenged()
  await edge.evict()
  // The challenge that was sent before is still the one.
  assert.deepEqual(await reader.auth(edge.url, me), [true, ''])
  await edge.evict()
  assert.match((await reader.publish(sign({ tags: [['-']] })))[1], /^restricted: /)
  assert.equal(reader.challenge, challenge)
  assert.deepEqual(await reader.req('mail', { kinds: [1059], '#p': [getPublicKey(me)] }), [])
  for (let n = 0; n < 5; n++) {
    await edge.evict()
    const note = sign({ tags: [['t', 'survives']] })
    assert.deepEqual(await writer.publish(note), [true, ''])
    assert.equal((await reader.event('notes')).id, note.id)
    await edge.evict()
    const mail = sign({ kind: 1059, tags: [['p', getPublicKey(me)]] }, generateSecretKey())
    assert.deepEqual(await writer.publish(mail), [true, ''])
    assert.equal((await reader.event('mail')).id, mail.id)
  }
  assert.deepEqual(await reader.rest(), [])
  assert.ok((await metrics(edge.http)).relay_sessions_restored_total >= 2)
  await Promise.all([reader.close(), writer.close()])
})

test('an object that hibernates by itself wakes up with the next message', async () => {
  const [reader, writer] = [await Client.open(edge.url), await Client.open(edge.url)]
  await reader.req('sub', { kinds: [1], '#t': ['asleep'] })
  await edge.evict()
  await reader.rest()
  assert.equal((await metrics(edge.http)).relay_connections_opened_total, 0)
  // workerd evicts the object after ten idle seconds.
  await sleep(13_000)
  const note = sign({ tags: [['t', 'asleep']] })
  assert.deepEqual(await writer.publish(note), [true, ''])
  assert.equal((await reader.event('sub')).id, note.id)
  const woken = await metrics(edge.http)
  assert.ok(woken['nostr_client_messages_total{verb="REQ"}'] < 2, 'counters start again')
  await Promise.all([reader.close(), writer.close()])
})

test('evictions lose nothing while clients publish and subscribe', async () => {
  const readers = await Promise.all(Array.from({ length: 10 }, () => Client.open(edge.url)))
  const writers = await Promise.all(Array.from({ length: 4 }, () => Client.open(edge.url)))
  for (const [n, reader] of readers.entries()) {
    await reader.req('all', { kinds: [1], '#t': ['storm'] })
    await reader.req('mine', { kinds: [1], '#t': [`storm ${n}`] })
  }
  let publishing = true
  const storm = (async () => {
    let count = 0
    while (publishing) {
      if (await edge.evict()) count += 1
      await sleep(15)
    }
    return count
  })()
  const published = []
  await Promise.all(
    writers.map(async (writer, w) => {
      for (let n = 0; n < 40; n++) {
        const tags = [['t', 'storm'], ['t', `storm ${(w + n) % 10}`]]
        const notes = [sign({ tags }), sign({ tags }), sign({ tags })]
        notes.forEach(note => writer.send('EVENT', note))
        for (const note of notes) {
          const [accepted, message] = (await writer.ok(note.id)).slice(2)
          assert.ok(accepted, message)
          published.push([note.id, (w + n) % 10])
        }
        await writer.req('page', { kinds: [1], '#t': ['storm'], limit: 30 })
      }
    }),
  )
  publishing = false
  const evictions = await storm
  assert.ok(evictions > 10, `${evictions} evictions`)
  for (const [n, reader] of readers.entries()) {
    const rest = await reader.rest()
    const of = sub => rest.filter(frame => frame[0] === 'EVENT' && frame[1] === sub).map(frame => frame[2].id)
    assert.deepEqual(of('all').toSorted(), published.map(([id]) => id).toSorted(), 'each once, none missing')
    const mine = published.filter(([, to]) => to === n).map(([id]) => id)
    assert.deepEqual(of('mine').toSorted(), mine.toSorted())
    assert.equal(rest.length, published.length + mine.length)
  }
  await Promise.all([...readers, ...writers].map(client => client.close()))
})

test('a long answer resumes after an eviction', async () => {
  const [reader, writer] = [await Client.open(edge.url), await Client.open(edge.url)]
  const content = 'x'.repeat(100_000)
  const [ids, begun] = [[], now()]
  for (let n = 0; n < 80; n++) {
    const note = sign({ content: `${n} ${content}`, tags: [['t', 'long']], created_at: begun - n })
    ids.push(note.id)
    assert.deepEqual(await writer.publish(note), [true, ''])
  }
  reader.socket.pause()
  reader.send('REQ', 'long', { '#t': ['long'] })
  await sleep(300)
  for (let n = 0; n < 3; n++) await edge.evict()
  const late = sign({ tags: [['t', 'long']] })
  assert.deepEqual(await writer.publish(late), [true, ''])
  reader.socket.resume()
  const seen = []
  while (seen.length < ids.length) {
    if (seen.length % 20 === 10) await edge.evict()
    seen.push((await reader.event('long')).id)
  }
  assert.deepEqual(seen, ids)
  assert.equal((await reader.take(frame => frame[1] === 'long'))[0], 'EOSE')
  assert.equal((await reader.event('long')).id, late.id)
  assert.deepEqual(await reader.rest(), [])
  await Promise.all([reader.close(), writer.close()])
})

test('filters that do not fit in an attachment survive', async () => {
  const [reader, writer] = [await Client.open(edge.url), await Client.open(edge.url)]
  const me = generateSecretKey()
  const authors = Array.from({ length: 9_999 }, (_, n) => n.toString(16).padStart(64, '0'))
  await reader.req('large', { authors: [...authors, getPublicKey(me)], kinds: [1] })
  for (let n = 0; n < 100; n++) await reader.req(`sub ${n} ${'é'.repeat(50)}`, { '#e': [authors[n], authors[n + 1]] })
  assert.ok((await metrics(edge.http)).relay_session_overflow_saved_total > 0)
  await edge.evict()
  const note = sign({ tags: [['e', authors[7]]] }, me)
  assert.deepEqual(await writer.publish(note), [true, ''])
  const rest = (await reader.rest()).map(frame => `${frame[0]} ${frame[1].slice(0, 6)} ${frame[2].id}`)
  assert.deepEqual(rest.toSorted(), ['large', 'sub 6 ', 'sub 7 '].map(sub => `EVENT ${sub} ${note.id}`))
  await Promise.all([reader.close(), writer.close()])
})

test('rate limits survive eviction', async () => {
  const client = await Client.open(edge.url)
  let refused = 0
  for (let n = 0; n < 700; n++) {
    if (n % 100 === 50) await edge.evict()
    client.send('REQ', 'q', { ids: [] })
    const [verb, , message] = await client.take(frame => frame[1] === 'q')
    if (verb === 'CLOSED') {
      assert.match(message, /^rate-limited:/)
      refused += 1
    }
  }
  // Ten a second come back while this runs.
  assert.ok(refused > 20, `${refused} refused`)
  await client.close()
})

test('a client that disconnects during hibernation is gone', async () => {
  const [stays, leaves] = [await Client.open(edge.url), await Client.open(edge.url)]
  await leaves.req('sub', { kinds: [1] })
  await stays.req('sub', { kinds: [1] })
  await edge.evict()
  await leaves.close()
  await stays.rest()
  assert.equal((await metrics(edge.http)).relay_connections, 1)
  await stays.close()
})
