// An agent whose key is not on the host: NDK's NIP-46 backend has it, and signs what the agent answers.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, test } from 'node:test'
import NDK, { NDKNip46Backend, NDKPrivateKeySigner } from '@nostr-dev-kit/ndk'
import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from 'nostr-tools/pure'
import { SimplePool } from 'nostr-tools/pool'
import { connected, leave, order, storedAt } from './jobs.mjs'
import { MNEMONIC } from './owner.mjs'
import { isOtherHost, now, startRelay, until, within } from './relay.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false
// Where it may not be allowed to connect to this machine.
const skipElsewhere = skip || (isOtherHost ? 'the host under test connects to public addresses only' : false)
const SECRET = 'once & for all'

/** A signer that listens on a relay, and takes whoever knows the secret. */
class Bunker extends NDKNip46Backend {
  clients = new Set()
  asked = []

  static async start(url, { signer = NDKPrivateKeySigner.generate(), secret = SECRET } = {}) {
    const ndk = new NDK({ explicitRelayUrls: [url], enableOutboxModel: false })
    await within('a connection', ndk.connect())
    await until('a connection', () => ndk.pool.connectedRelays().length === 1)
    const bunker = new Bunker(ndk, signer, ({ pubkey, method }) => {
      bunker.asked.push(method)
      return bunker.clients.has(pubkey)
    })
    bunker.secret = secret
    await bunker.start()
    bunker.pubkey = bunker.localUser.pubkey
    return bunker
  }

  async applyToken(client, token) {
    if (token !== this.secret) throw new Error('an unknown secret')
    this.clients.add(client)
  }

  stop() {
    this.ndk.pool.relays.forEach(relay => relay.disconnect())
    this.rpc.pool?.relays.forEach(relay => relay.disconnect())
  }
}

/** The URL that an owner gives to the agent's host. */
const urlOf = (bunker, relay, secret = SECRET) =>
  `bunker://${bunker.pubkey}?relay=${encodeURIComponent(relay)}&secret=${encodeURIComponent(secret)}`

const admin = generateSecretKey()
let signed = 0

/** Sends a signed request to the API of a relay whose URL is `url`, and gives the response's status and JSON. */
async function api(relay, url, method, path, document) {
  const body = document && JSON.stringify(document)
  const tags = [['u', url.replace('ws', 'http') + path], ['method', method], ['nonce', `${signed++}`]]
  if (body) tags.push(['payload', createHash('sha256').update(body).digest('hex')])
  const token = finalizeEvent({ kind: 27235, created_at: now(), tags, content: '' }, admin)
  const authorization = `Nostr ${Buffer.from(JSON.stringify(token)).toString('base64')}`
  const response = await fetch(relay.http + path, { method, headers: { authorization }, body })
  return { status: response.status, document: await response.json() }
}

const manifestOf = (name, bunker, secret) => ({
  name,
  pubkey: bunker.pubkey,
  identity: { bunker: { secret } },
  handlers: [{ kind: 5050, executor: 'echo', config: {} }],
})

/** A relay whose URL is `url`, and where the secrets of agents are these. */
async function startHost(url, secrets, privateHost) {
  const [pubkey, env] = [getPublicKey(admin), { AGENT_MASTER_SECRET: MNEMONIC, ...secrets }]
  const config = { url, policy: { admin_pubkeys: [pubkey] }, agents: { allow_private_hosts: [privateHost] } }
  if (isOtherHost) return startRelay({ config, env })
  const settings = { RELAY_URL: url, RELAY_POLICY__ADMIN_PUBKEYS: pubkey, RELAY_AGENTS__ALLOW_PRIVATE_HOSTS: privateHost }
  return startRelay({ env: { ...env, ...settings } })
}

const text = 'line\nquote " and 漢'
const orders = { plain: {}, 'encrypted by NIP-44': { encrypted: true }, 'encrypted by NIP-04': { encrypted: true, nip04: true } }

async function ndkOrders(t, url, bunker, { encrypted = false, nip04 = false }) {
  const ndk = await connected(url, { nip04 })
  t.after(() => leave(ndk))
  const { feedback, result } = await order(ndk, bunker.pubkey, { tags: [['i', text, 'text']], encrypted })
  assert.deepEqual(feedback.map(each => each.status), ['processing'])
  assert.ok(feedback[0].created_at < result.created_at)
  assert.equal(result.content, text)
}

const URL_HERE = 'wss://relay.test'
let bunker, elsewhere, stranger, host, other
before(async () => {
  if (skip) return
  other = await startRelay()
  elsewhere = await Bunker.start(other.url)
  stranger = await Bunker.start(other.url, { secret: 'another secret' })
  // Its key is known before the relay is there on which it listens.
  const early = NDKPrivateKeySigner.generate()
  const secrets = {
    AGENT_HERE: urlOf({ pubkey: early.pubkey }, URL_HERE),
    AGENT_ELSEWHERE: urlOf(elsewhere, other.url),
    AGENT_STRANGER: urlOf(stranger, other.url),
    AGENT_PRIVATE: urlOf(elsewhere, 'ws://127.0.0.1:1'),
  }
  host = await startHost(URL_HERE, secrets, other.url.replace('ws://', ''))
  bunker = await Bunker.start(host.url, { signer: early })
})
after(async () => {
  for (const each of [bunker, elsewhere, stranger]) each?.stop()
  await host?.stop()
  await other?.stop()
})

test('it is deployed with a signer that listens on its own relay', { skip }, async () => {
  const { status, document } = await api(host, URL_HERE, 'POST', '/agents', manifestOf('here', bunker, 'AGENT_HERE'))
  assert.equal(status, 201, JSON.stringify(document))
  assert.equal(document.pubkey, bunker.pubkey)
  const pool = new SimplePool()
  const stored = storedAt(pool, host.url)
  const found = () => stored({ kinds: [0, 31990], authors: [bunker.pubkey] })
  await until('announcements', async () => (await found()).length === 2)
  assert.ok((await found()).every(verifyEvent))
  pool.destroy()
})

for (const [name, job] of Object.entries(orders)) {
  test(`NDK orders a job, ${name}, from the agent of a signer on the same relay`, { skip }, t => ndkOrders(t, host.url, bunker, job))
}

test('it is connected once, and asked for nothing else than was needed', { skip }, () => {
  const count = method => bunker.asked.filter(each => each === method).length
  assert.equal(count('connect'), 1)
  assert.deepEqual([count('nip44_decrypt'), count('nip44_encrypt'), count('nip04_decrypt'), count('nip04_encrypt')], [1, 2, 1, 2])
  // Four announcements (kind 10002 and 10050 among them), a heartbeat, and two answers to each of three jobs.
  assert.equal(count('sign_event'), 4 + 1 + 3 * 2)
})

for (const [name, job] of Object.entries(orders)) {
  test(`NDK orders a job, ${name}, from the agent of a signer on another relay`, { skip: skipElsewhere }, async t => {
    const { status } = await api(host, URL_HERE, 'POST', '/agents', manifestOf('elsewhere', elsewhere, 'AGENT_ELSEWHERE'))
    assert.ok(status === 201 || status === 200)
    await ndkOrders(t, host.url, elsewhere, job)
  })
}

test('a signer that is told a wrong secret signs nothing, and the agent says so', { skip: skipElsewhere }, async () => {
  const { status, document } = await api(host, URL_HERE, 'POST', '/agents', manifestOf('stranger', stranger, 'AGENT_STRANGER'))
  assert.equal(status, 201)
  const failure = async () => (await api(host, URL_HERE, 'GET', `/agents/${document.npub}`)).document.error
  await until('an error', failure)
  assert.match(await failure(), /^the remote signer refuses: /)
  const pool = new SimplePool()
  assert.deepEqual(await storedAt(pool, host.url)({ authors: [stranger.pubkey] }), [])
  pool.destroy()
})

test('no connection is made to a private address that is not allowed', { skip }, async () => {
  const named = manifestOf('elsewhere', elsewhere, 'AGENT_PRIVATE')
  const { document } = await api(host, URL_HERE, 'POST', '/agents', { ...named, about: 'another version' })
  const failure = async () => (await api(host, URL_HERE, 'GET', `/agents/${document.npub}`)).document.error
  await until('an error', failure)
  assert.match(await failure(), /cannot be asked: ws:\/\/127\.0\.0\.1:1: /)
})

test('what a manifest needs for it is said with the path of the field', { skip }, async () => {
  const named = manifestOf('here', bunker, 'AGENT_HERE')
  for (const [change, field] of [
    [{ pubkey: undefined }, 'pubkey'],
    [{ identity: { bunker: { secret: 'OTHER' } } }, 'identity.bunker.secret'],
    [{ identity: { bunker: { secret: 'AGENT_ABSENT' } } }, 'identity'],
    [{ handlers: [{ kind: 5050, executor: 'webhook', config: { url: 'https://example.com/' } }] }, 'handlers[0].executor'],
  ]) {
    const { status, document } = await api(host, URL_HERE, 'POST', '/agents', { ...named, ...change })
    assert.deepEqual([status, document.field], [400, field], JSON.stringify(document))
  }
})
