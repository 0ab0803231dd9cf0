// Signatures in wasm: of known authors and of others, singly and in batches, valid and invalid.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { getEventHash } from 'nostr-tools/pure'
import { Client, generateSecretKey, sign } from './client.mjs'
import { startEdge } from './host.mjs'

const N = 'fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141'
const P = 'fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f'
const flip = (hex, place) => hex.slice(0, place) + (hex[place] === '0' ? '1' : '0') + hex.slice(place + 1)

/** Ways to make a signature invalid, given another one of the same author. */
const WRONG = {
  'a digit of R': sig => flip(sig, 7),
  'a digit of s': sig => flip(sig, 127),
  "another event's": (_, other) => other,
  'R of one and s of another': (sig, other) => sig.slice(0, 64) + other.slice(64),
  's is the order': sig => sig.slice(0, 64) + N,
  'R is the prime': sig => P + sig.slice(64),
  'R is zero': sig => '0'.repeat(64) + sig.slice(64),
  's is zero': sig => sig.slice(0, 64) + '0'.repeat(64),
}

/** Sends events at once and checks each verdict. */
async function check(client, events, what) {
  for (const { event } of events) client.send('EVENT', event)
  for (const { event, why } of events) {
    const [accepted, message] = (await client.ok(event.id)).slice(2)
    assert.equal(accepted, !why, `${what}, ${why ?? 'a right one'}: ${message}`)
    if (why) assert.match(message, /^invalid: /)
  }
}

/** At least `total` events of an author: first each way to be invalid, with a valid one after each. */
function series(by, total) {
  const events = []
  for (const [why, spoil] of Object.entries(WRONG)) {
    const [event, other] = [sign({}, by), sign({}, by)]
    events.push({ event: { ...event, sig: spoil(event.sig, other.sig) }, why }, { event: sign({}, by) })
  }
  while (events.length < total) events.push({ event: sign({}, by) })
  return events
}

test('every signature gets its own verdict, whichever authors are known', async () => {
  const edge = await startEdge()
  const client = await Client.open(edge.url)
  const known = generateSecretKey()
  // Singly first: libsecp256k1 verifies until the author has signed often enough for a table.
  for (const entry of series(known, 24)) await check(client, [entry], 'alone')
  for (let round = 0; round < 3; round++) await check(client, series(known, 60), `together, round ${round}`)
  // Also unknown authors, each with one event; every third is invalid.
  const ways = Object.entries(WRONG)
  const mixed = series(known, 30).flatMap((entry, place) => {
    const by = generateSecretKey()
    const [event, other] = [sign({}, by), sign({}, by)]
    if (place % 3) return [entry, { event }]
    const [why, spoil] = ways[(place / 3) % ways.length]
    return [entry, { event: { ...event, sig: spoil(event.sig, other.sig) }, why }]
  })
  await check(client, mixed, 'strangers too')
  // An x coordinate that is on no point is no public key.
  const nobody = { ...sign({}, known), pubkey: 'eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34' }
  const nobodys = content => {
    const event = { ...nobody, content }
    return { event: { ...event, id: getEventHash(event) }, why: 'a key that is no point' }
  }
  await check(client, [nobodys('alone')], 'alone')
  // Six claims of one key in a batch get a table before verification: of an invalid key, and of one with only forgeries.
  const forged = () => {
    const [event, other] = [sign({}, forger), sign({}, forger)]
    return { event: { ...event, sig: other.sig }, why: "another event's" }
  }
  const forger = generateSecretKey()
  for (let round = 0; round < 2; round++) {
    const entries = Array.from({ length: 12 }, (_, place) => (place % 2 ? nobodys(`${round} ${place}`) : forged()))
    await check(client, entries, `tables beforehand, round ${round}`)
  }
  await client.close()
  await edge.stop()
})
