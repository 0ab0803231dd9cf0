// The agents' API, request by request, on both hosts: agent/tests/api_requests.json says what is sent and what comes back.
//
// A step is a request (`method`, `path`, `body`, signed by the key that `by` names), a job, or a log that is followed while other
// steps are taken. `order` is a job request as a body, signed by the key that it names. `answer` has what the JSON must have at least: arrays as long as given, `null` for what must not be there. In texts
// `{name}` is what a step before kept `as` that name (an agent's npub, a job's id), `{key name}` a public key.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { ask } from './agents_client.mjs'
import { Client, generateSecretKey, getPublicKey, now, read, sign } from './client.mjs'
import { startEdge } from './host.mjs'
import { startServer } from './server.mjs'

const STEPS = JSON.parse(read('../../agent/tests/api_requests.json'))
const ROLES = ['admin', 'deployer', 'other deployer', 'operator', 'customer', 'stranger', 'denied']
const keys = Object.fromEntries(ROLES.map(role => [role, generateSecretKey()]))
const MASTER_SECRET = '0b'.repeat(32)
const config = {
  policy: { admin_pubkeys: [getPublicKey(keys.admin)], deny_pubkeys: [getPublicKey(keys.denied)] },
  agents: { agents_max: 3, deploy_pubkeys: ['deployer', 'other deployer'].map(role => getPublicKey(keys[role])) },
}

/** Whether `is` has all that `wanted` has. */
function assertHas(is, wanted, place) {
  if (wanted === null) return assert.ok(is === null || is === undefined, `${place}: ${JSON.stringify(is)}`)
  if (typeof wanted !== 'object') return assert.deepEqual(is, wanted, place)
  assert.ok(is && typeof is === 'object', `${place}: ${JSON.stringify(is)}`)
  if (Array.isArray(wanted)) assert.equal(is.length, wanted.length, `${place}: ${JSON.stringify(is)}`)
  for (const [name, value] of Object.entries(wanted)) assertHas(is[name], value, `${place}.${name}`)
}

class Run {
  constructor(host, client) {
    Object.assign(this, { host, client, kept: {}, documents: {}, agents: {}, header: undefined })
  }

  /** A text or document with the names in it replaced. */
  fill(value) {
    const text = JSON.stringify(value).replaceAll(/\{(key )?([a-z][a-z ]*)\}/g, (whole, isKey, name) => {
      if (isKey) return keys[name] ? getPublicKey(keys[name]) : this.agents[name].pubkey
      return this.kept[name] ?? whole
    })
    return JSON.parse(text)
  }

  /** A job request for an agent. */
  jobRequest({ by, to, kind, text }) {
    return sign({ kind, tags: [['p', this.agents[to].pubkey], ['i', text, 'text']], content: '' }, keys[by])
  }

  body({ body, order, pad = 0 }) {
    if (order) return JSON.stringify(this.jobRequest(order))
    if (body === undefined) return undefined
    const kept = typeof body === 'string' && body.match(/^\{kept (.*)\}$/)
    if (kept) return this.documents[kept[1]]
    const filled = this.fill(body)
    return (typeof filled === 'string' ? filled : JSON.stringify(filled)) + ' '.repeat(pad)
  }

  authorization(step, path, body) {
    if (step.by === null) return {}
    if (step.replay) return { authorization: this.header }
    const method = step.signed_method ?? step.method
    const tags = [['u', this.host.http + (step.signed_path ?? path)], ['method', method]]
    const hashed = step.signed_body ? this.body({ body: step.signed_body }) : body
    const needsHash = !['GET', 'HEAD'].includes(method) && !step.unsigned_body
    if (needsHash) tags.push(['payload', createHash('sha256').update(hashed ?? '').digest('hex')])
    const event = sign({ kind: 27235, created_at: now() + (step.signed_at ?? 0), tags }, keys[step.by])
    this.header = `Nostr ${Buffer.from(JSON.stringify(event)).toString('base64')}`
    return { authorization: this.header }
  }

  async request(step) {
    const [path, body] = [this.fill(step.path), this.body(step)]
    const headers = { ...step.send, ...this.authorization(step, path, body) }
    const response = await fetch(this.host.http + path, { method: step.method, headers, body })
    const text = await response.text()
    assert.equal(response.status, step.status, text)
    for (const [name, value] of Object.entries(step.headers ?? {})) assert.equal(response.headers.get(name), value, name)
    const isJson = response.headers.get('content-type') === 'application/json' && text !== ''
    const json = isJson ? JSON.parse(text) : undefined
    if (step.status >= 400 && step.method !== 'HEAD') assert.equal(typeof json?.error, 'string', `its error: ${text}`)
    if (step.answer) assertHas(json, this.fill(step.answer), 'answer')
    if (step.contains !== undefined) assert.ok(step.contains === '' ? text === '' : text.includes(step.contains), text)
    if (step.as) [this.kept[step.as], this.agents[step.as]] = [json.npub, json]
    if (step.keep) this.documents[step.keep] = text
  }

  async job({ by, job, as, answers }) {
    const event = this.jobRequest({ by, ...job })
    assert.deepEqual(await ask(this.client, event), answers)
    if (as) this.kept[as] = event.id
  }

  /** Takes the steps `during` while a log is followed; it must show what they say is `logged`, and end after them. */
  async follow({ by, follow, during }) {
    const path = this.fill(follow)
    const response = await fetch(this.host.http + path, { headers: this.authorization({ by, method: 'GET' }, path) })
    assert.equal(response.status, 200)
    const [messages, numbers] = [[], []]
    let seen = () => {}
    const ended = (async () => {
      for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
        for (const line of chunk.split('\n').filter(line => line)) {
          const { message, number } = JSON.parse(line)
          messages.push(message)
          numbers.push(number)
        }
        seen()
      }
    })()
    for (const step of during) {
      await this.take(step)
      while (step.logged && !messages.includes(step.logged)) await new Promise(done => (seen = done))
    }
    await ended
    assert.match(messages[0], /^version 1 deployed by /)
    assert.equal(new Set(numbers).size, numbers.length, 'each line once')
  }

  async take(step) {
    try {
      await (step.job ? this.job(step) : step.follow ? this.follow(step) : this.request(step))
    } catch (error) {
      error.message = `${step.what}: ${step.method ?? ''} ${step.path ?? ''}: ${error.message}`
      throw error
    }
  }
}

const HOSTS = {
  server: startServer,
  edge: startEdge,
}

for (const [name, start] of Object.entries(HOSTS)) {
  test(`the ${name} answers the requests of the table`, async t => {
    const host = await start({ config, vars: { AGENT_MASTER_SECRET: MASTER_SECRET } })
    t.after(() => host.stop())
    const client = await Client.open(host.url)
    t.after(() => client.close())
    const run = new Run(host, client)
    for (const step of STEPS) await t.test(step.what, { timeout: 60_000 }, () => run.take(step))
  })
}
