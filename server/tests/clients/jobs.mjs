// NDK as a customer of data vending machines (NIP-90), and what a customer may expect of any of them.
import assert from 'node:assert/strict'
import NDK, { NDKDVMJobFeedback, NDKDVMJobResult, NDKDVMRequest, NDKPrivateKeySigner } from '@nostr-dev-kit/ndk'
import { author, now, PATIENCE_MS, until, within } from './relay.mjs'

/** A signer of before NIP-44: NDK then encrypts and decrypts by NIP-04 alone. */
class Nip04Signer extends NDKPrivateKeySigner {
  async encryptionEnabled(scheme) {
    return scheme === 'nip44' ? undefined : ['nip04']
  }
}

/** NDK with a new key, connected to the relay. */
export async function connected(url, { nip04 = false } = {}) {
  const generated = NDKPrivateKeySigner.generate()
  const signer = nip04 ? new Nip04Signer(generated.privateKey) : generated
  const ndk = new NDK({ explicitRelayUrls: [url], signer, enableOutboxModel: false })
  await within('a connection', ndk.connect())
  await until('a connection', () => ndk.pool.connectedRelays().length === 1)
  return ndk
}

/** Ends its connections. */
export const leave = ndk => ndk.pool.relays.forEach(relay => relay.disconnect())

/**
 * Orders a job from the machine `pubkey`, and waits for its result. Gives all that was received in the order of its coming,
 * decrypted; fails if there is not exactly one result, or what is sent is not signed by the machine or not about the request.
 */
export async function order(ndk, pubkey, { kind = 5050, tags = [], encrypted = false }) {
  const machine = ndk.getUser({ pubkey })
  const request = new NDKDVMRequest(ndk)
  request.kind = kind
  request.tags = tags.map(tag => [...tag])
  if (encrypted) await request.encryption(machine)
  else request.dvm = machine
  await request.sign()

  const answers = []
  const filter = { kinds: [7000, kind + 1000], ...request.filter() }
  let eose
  const listening = new Promise(resolve => (eose = resolve))
  const subscription = ndk.subscribe(filter, { closeOnEose: false, groupable: false, onEvent: event => answers.push(event), onEose: eose })
  await within('EOSE', listening)
  await within('OK', request.publish())
  await until(`a result of kind ${kind + 1000}`, () => answers.some(answer => answer.kind === kind + 1000))
  // What comes after the result would be stored, or come before this answer.
  const stored = await within('what is stored', ndk.fetchEvents(filter, { groupable: false }))
  subscription.stop()

  const ids = new Set([...answers, ...stored].map(event => event.id))
  assert.equal(ids.size, answers.length, 'nothing came that was not sent live')
  for (const answer of answers) {
    assert.equal(answer.pubkey, pubkey)
    assert.equal(answer.tagValue('e'), request.id)
    assert.equal(answer.tagValue('p'), request.pubkey)
    assert.equal(answer.hasTag('encrypted'), encrypted)
  }
  const results = answers.filter(answer => answer.kind !== 7000).map(NDKDVMJobResult.from)
  assert.equal(results.length, 1, 'results')
  const feedback = await Promise.all(answers.filter(answer => answer.kind === 7000).map(NDKDVMJobFeedback.from))
  if (encrypted) await results[0].decrypt()
  return { request, feedback, result: results[0] }
}

/** What the relay stores; `pool` is nostr-tools', whose own patience is shorter than that of a busy machine. */
export const storedAt = (pool, url) => filter =>
  within(JSON.stringify(filter), pool.querySync([url], filter, { maxWait: 2 * PATIENCE_MS }))

/** Pings a machine until it answers; `pool` is nostr-tools'. Gives the answers to all pings. */
export async function ping(pool, url, pubkey) {
  const { sign, pubkey: own } = author()
  const pongs = []
  const pings = new Set()
  const subscription = pool.subscribe([url], { kinds: [7000], '#p': [own] }, { onevent: event => pongs.push(event) })
  const begun = performance.now()
  while (pongs.length === 0) {
    assert.ok(performance.now() - begun < PATIENCE_MS, 'no answer to a ping')
    // Machines subscribe from now on, so an older one would not reach them.
    const event = sign({ kind: 7007, created_at: now(), tags: [['p', pubkey]], content: `${pings.size}` })
    pings.add(event.id)
    await within('OK', Promise.all(pool.publish([url], event)))
    await new Promise(resolve => setTimeout(resolve, 250))
  }
  subscription.close()
  for (const pong of pongs) {
    assert.equal(pong.pubkey, pubkey)
    assert.ok(pong.tags.some(([name, id]) => name === 'e' && pings.has(id)))
    assert.ok(pong.tags.some(([name, status]) => name === 'status' && status === 'pong'))
  }
  return pongs
}
