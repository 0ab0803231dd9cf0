// Agents of the relay, as clients that others wrote find and use them: NDK, nostr-tools, nostr-dvm; and what Amethyst asks for.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import * as nip05 from 'nostr-tools/nip05'
import * as nip06 from 'nostr-tools/nip06'
import * as nip19 from 'nostr-tools/nip19'
import * as nip44 from 'nostr-tools/nip44'
import { SimplePool } from 'nostr-tools/pool'
import { getPublicKey, verifyEvent } from 'nostr-tools/pure'
import { connected, leave, order, ping, storedAt } from './jobs.mjs'
import { MNEMONIC, startRelayOfOwner } from './owner.mjs'
import { author, now, root, until, within } from './relay.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false
const WEEK = 7 * 24 * 3600

let server, pool, stored, agent
before(async () => {
  if (skip) return
  server = await startRelayOfOwner()
  agent = await server.run('deploy', join(root, 'agent', 'examples', 'echo.toml'))
  pool = new SimplePool()
  stored = storedAt(pool, server.url)
})
after(async () => {
  pool?.destroy()
  await server?.stop()
})

const publish = event => within('OK', Promise.all(pool.publish([server.url], event)))
const tag = (event, name) => event.tags.find(([own]) => own === name)?.[1]

/** What NDK receives for one job, with the rules that hold for every job of ours checked. */
async function ndkOrders(t, { nip04 = false, ...job }) {
  const ndk = await connected(server.url, { nip04 })
  t.after(() => leave(ndk))
  const { request, feedback, result } = await order(ndk, agent.pubkey, job)
  assert.deepEqual(feedback.map(each => each.status), ['processing'])
  assert.ok(feedback[0].created_at < result.created_at, 'a client that shows the newest answer shows the result')
  assert.ok(Number(feedback[0].tagValue('expiration')) > now())
  assert.equal(result.tagValue('expiration'), undefined)
  assert.equal(result.jobRequest.id, request.id)
  return { request, result }
}

test('its npub is its key, which NIP-06 derives from the master secret', { skip }, async () => {
  assert.equal(nip19.decode(agent.npub).data, agent.pubkey)
  const file = join(server.data, 'seventh.toml')
  writeFileSync(file, `
    name = "seventh"
    identity = { derived = { account = 7 } }
    [[handlers]]
    kind = 5001
    executor = "echo"
    config = { prefix = "seventh: " }
  `)
  const seventh = await server.run('deploy', file)
  assert.equal(seventh.pubkey, getPublicKey(nip06.privateKeyFromSeedWords(MNEMONIC, '', 7)))
})

test('it is found as Amethyst finds it: announced for the kind, with a heartbeat of the same d that is at most 420 s old', { skip }, async () => {
  await until('a heartbeat', async () => (await stored({ kinds: [11998], since: now() - 420 })).length > 0)
  const found = await stored({ kinds: [31990], '#k': ['5050'], limit: 30, since: now() - WEEK })
  const heartbeats = await stored({ kinds: [11998], since: now() - 420 })
  const alive = found.filter(each => heartbeats.some(heartbeat => heartbeat.pubkey === each.pubkey && tag(heartbeat, 'd') === tag(each, 'd')))
  assert.deepEqual(alive.map(each => each.pubkey), [agent.pubkey])
  const content = JSON.parse(alive[0].content)
  assert.equal(content.name, 'echo')
  assert.equal(content.amount, 'free')
  assert.equal(content.supportsEncryption, true)
  assert.notEqual(content.subscription, true)
  for (const kind of [0, 31990]) assert.equal((await stored({ kinds: [kind], authors: [agent.pubkey] })).length, 1, `kind ${kind}`)
})

test('nostr-tools finds it by NIP-05', { skip }, async () => {
  nip05.useFetchImplementation(url => fetch(url.replace('https://relay.test', server.http)))
  const profile = await nip05.queryProfile('echo@relay.test')
  assert.equal(profile.pubkey, agent.pubkey)
})

const text = 'line\nquote " and 漢'
for (const [name, { nip04, encrypted }] of Object.entries({
  plain: {},
  'encrypted by NIP-44': { encrypted: true },
  'encrypted by NIP-04': { encrypted: true, nip04: true },
})) {
  test(`NDK orders a job, ${name}`, { skip }, async t => {
    const tags = [['i', text, 'text'], ['param', 'top_k', '5'], ['output', 'text/plain'], ['bid', '1000'], ['relays', server.url]]
    const { result } = await ndkOrders(t, { tags, encrypted, nip04 })
    assert.equal(result.content, text)
    if (!encrypted) {
      assert.equal(result.status, 'success')
      assert.deepEqual(result.getMatchingTags('i')[0].slice(0, 3), ['i', text, 'text'])
    }
  })
}

test('NDK orders without an input, and with the result of another job as the input', { skip }, async t => {
  const { request, result } = await ndkOrders(t, { tags: [] })
  assert.notEqual(result.content, '')
  const chained = await ndkOrders(t, { tags: [['i', request.id, 'job']] })
  assert.equal(chained.result.content, result.content)
})

/** Publishes a request by nostr-tools, and gives all answers to it up to the first that `ends`. */
async function nostrToolsOrders(request, ends) {
  const answers = []
  const subscription = pool.subscribe([server.url], { kinds: [7000, 6050], '#e': [request.id] }, { onevent: event => answers.push(event) })
  await publish(request)
  await until('the last answer', () => answers.some(ends))
  subscription.close()
  assert.ok(answers.every(answer => verifyEvent(answer) && answer.pubkey === agent.pubkey && tag(answer, 'p') === request.pubkey))
  return answers
}

const isResult = answer => answer.kind === 6050

test('nostr-tools orders an open job, which names no agent', { skip }, async () => {
  const { sign } = author()
  const request = sign({ kind: 5050, created_at: now(), content: '', tags: [['i', 'to whom it may concern', 'text']] })
  const answers = await nostrToolsOrders(request, isResult)
  assert.equal(answers.find(isResult).content, 'to whom it may concern')
})

test('a request as Snort writes it, with some tags encrypted and some not, is answered encrypted', { skip }, async () => {
  const { key, sign } = author()
  const secret = nip44.getConversationKey(key, agent.pubkey)
  const content = nip44.encrypt(JSON.stringify([['i', 'only for you', 'text'], ['param', 'language', 'en']]), secret)
  const tags = [['p', agent.pubkey], ['encrypted', '1'], ['output', 'text/plain']]
  const answers = await nostrToolsOrders(sign({ kind: 5050, created_at: now(), content, tags }), isResult)
  assert.equal(nip44.decrypt(answers.find(isResult).content, secret), 'only for you')
  assert.ok(answers.every(answer => !JSON.stringify(answer).includes('only for you')))
})

test('an input of a type that nobody knows is answered by an error in words', { skip }, async () => {
  const { sign } = author()
  const tags = [['p', agent.pubkey], ['i', 'Hi', 'telepathy']]
  const isError = answer => tag(answer, 'status') === 'error'
  const answers = await nostrToolsOrders(sign({ kind: 5050, created_at: now(), content: '', tags }), isError)
  const [, , words] = answers.find(isError).tags.find(([name]) => name === 'status')
  assert.match(words, /telepathy/)
})

test('it answers pings', { skip }, async () => {
  await ping(pool, server.url, agent.pubkey)
})

test('deleted, it is not found any more', { skip }, async () => {
  await server.run('delete', agent.npub)
  await until('the retraction', async () => (await stored({ kinds: [31990], '#k': ['5050'] })).length === 0)
  await assert.rejects(server.run('show', agent.npub))
})
