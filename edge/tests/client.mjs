// A WebSocket client for tests, and signed events to publish.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { get } from 'node:http'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import WebSocket from 'ws'

export { generateSecretKey, getPublicKey }

export const now = () => Math.floor(Date.now() / 1000)
export const sleep = ms => new Promise(done => setTimeout(done, ms))
export const key = generateSecretKey()
let serial = 0

/** A signed event, unlike any before. */
export const sign = (draft = {}, by = key) =>
  finalizeEvent({ kind: 1, created_at: now(), tags: [], content: `note ${serial++}`, ...draft }, by)

const PATIENCE_MS = 20_000

export class Client {
  static async open(url, options = {}) {
    const client = new Client()
    client.socket = new WebSocket(url, { maxPayload: 1 << 28, ...options })
    client.frames = []
    client.waiting = []
    client.closed = new Promise(done => client.socket.on('close', (code, reason) => done({ code, reason: `${reason}` })))
    client.socket.on('message', data => {
      const frame = JSON.parse(data)
      if (frame[0] === 'AUTH') client.challenge = frame[1]
      client.frames.push(frame)
      client.dispatch()
    })
    await new Promise((done, fail) => {
      client.socket.on('open', done)
      client.socket.on('error', fail)
    })
    return client
  }

  /** Gives received frames to those that wait for them. */
  dispatch() {
    this.waiting = this.waiting.filter(({ wanted, done }) => {
      const place = this.frames.findIndex(wanted)
      if (place < 0) return true
      done(this.frames.splice(place, 1)[0])
      return false
    })
  }

  /** Removes and returns the first received frame that is `wanted`; waits for it if there is none yet. */
  take(wanted, what = `${wanted}`) {
    return new Promise((done, fail) => {
      const timer = setTimeout(() => {
        fail(new Error(`no frame: ${what}; there are ${JSON.stringify(this.frames).slice(0, 500)}`))
      }, PATIENCE_MS)
      this.waiting.push({ wanted, done: frame => (clearTimeout(timer), done(frame)) })
      this.dispatch()
    })
  }

  send(...frame) {
    this.socket.send(JSON.stringify(frame))
  }

  ok(id) {
    return this.take(frame => frame[0] === 'OK' && frame[1] === id, `the OK of ${id}`)
  }

  /** Publishes and returns [accepted, message] of its OK. */
  async publish(event) {
    this.send('EVENT', event)
    return (await this.ok(event.id)).slice(2)
  }

  /** Sends a REQ and returns its events up to EOSE; the subscription stays open. */
  async req(sub, ...filters) {
    this.send('REQ', sub, ...filters)
    const events = []
    for (;;) {
      const frame = await this.take(frame => frame[0] !== 'AUTH' && frame[1] === sub, `the answer to ${sub}`)
      if (frame[0] === 'EVENT') events.push(frame[2])
      else if (frame[0] === 'EOSE') return events
      else throw new Error(JSON.stringify(frame))
    }
  }

  /** The next live event of a subscription. */
  async event(sub) {
    return (await this.take(frame => frame[0] === 'EVENT' && frame[1] === sub, `an event of ${sub}`))[2]
  }

  /** All frames that have not been taken, without AUTH, after everything sent so far has been answered. */
  async rest() {
    await this.req(`fence ${serial++}`, { ids: [] })
    return this.frames.splice(0).filter(frame => frame[0] !== 'AUTH')
  }

  /** The AUTH challenge, which the relay sends with the first refusal that authentication would lift. */
  async challenged() {
    if (!this.challenge) assert.match((await this.publish(sign({ tags: [['-']] })))[1], /^auth-required: /)
    return this.challenge
  }

  async auth(url, by = key) {
    const tags = [['relay', url], ['challenge', await this.challenged()]]
    const event = sign({ kind: 22242, tags, content: '' }, by)
    this.send('AUTH', event)
    return (await this.ok(event.id)).slice(2)
  }

  close() {
    this.socket.close()
    return this.closed
  }
}

/** Fetches a page over a new connection: those that fetch() keeps alive are closed while a test signs for seconds. */
const page = url =>
  new Promise((done, fail) => {
    const request = get(url, { agent: false }, response => {
      response.toArray().then(chunks => done(Buffer.concat(chunks).toString()), fail)
    })
    request.on('error', fail)
  })

/** The values of /metrics by name and labels, as written there. */
export async function metrics(http) {
  const text = await page(`${http}/metrics`)
  const lines = text.split('\n').filter(line => line && !line.startsWith('#'))
  return Object.fromEntries(lines.map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.split(' ').at(-1))]))
}

export const read = path => readFileSync(new URL(path, import.meta.url))
