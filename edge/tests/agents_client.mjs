// What tests of agents need: the signed API, jobs, and a Worker that counts the requests its objects get.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { generateSecretKey, getPublicKey, sign } from './client.mjs'

export const admin = generateSecretKey()
export const vars = { ADMIN_PUBKEYS: getPublicKey(admin), AGENT_MASTER_SECRET: '0b'.repeat(32) }
export const ECHO = { name: 'echo', handlers: [{ kind: 5050, executor: 'echo' }] }

/** The Worker, with the path /counts: by class of objects, requests by path, alarms, and rows written and read as they are billed. Its
 * agents have a model of their own. */
export const counting = `
import Entry, { AgentDurableObject as Agent, MarketDurableObject as Market, RelayDurableObject as Relay } from './index.js'
export { BlossomDurableObject } from './index.js'
const counts = {}
const count = (name, by = 1) => { counts[name] = (counts[name] ?? 0) + by }
const AI = {
  async run(model, input) {
    if (model !== '@cf/test/model') throw new Error('5007: No such model ' + model)
    return { response: input.messages.at(-1).content.toUpperCase(), usage: { prompt_tokens: 1, completion_tokens: 2 } }
  },
}
/** An object whose functions are those of \`of\`, except for \`own\`. */
const instead = (of, own) => new Proxy(of, {
  get(_, name) {
    if (name in own) return own[name]
    const value = of[name]
    return typeof value === 'function' ? value.bind(of) : value
  },
})
const cursors = []
/** Counts the rows that an object writes and reads, once its cursors have been read. */
const counting = (state, name) => {
  const exec = (...args) => {
    const cursor = state.storage.sql.exec(...args)
    cursors.push([name, cursor])
    return cursor
  }
  // Setting an alarm is billed as a row.
  const setAlarm = at => {
    count(name + ' rows')
    count(name + ' alarms set')
    return state.storage.setAlarm(at)
  }
  return instead(state, { storage: instead(state.storage, { sql: instead(state.storage.sql, { exec }), setAlarm }) })
}
const counted = (Class, name) => class {
  constructor(state, env) { this.object = new Class(counting(state, name), { ...env, AI }) }
  fetch(request) {
    count(name + new URL(request.url).pathname)
    return this.object.fetch(request)
  }
  alarm() {
    count(name + ' alarm')
    return this.object.alarm()
  }
  webSocketMessage(...args) { return this.object.webSocketMessage(...args) }
  webSocketClose(...args) { return this.object.webSocketClose(...args) }
  webSocketError(...args) { return this.object.webSocketError(...args) }
}
export class AgentDurableObject extends counted(Agent, 'agent') {}
export class MarketDurableObject extends counted(Market, 'market') {}
export class RelayDurableObject extends counted(Relay, 'relay') {}
export default {
  fetch(request, env, ctx) {
    if (new URL(request.url).pathname === '/counts') {
      for (const [name, cursor] of cursors.splice(0)) {
        count(name + ' rows', cursor.rowsWritten)
        count(name + ' rows read', cursor.rowsRead)
      }
      return Response.json(counts)
    }
    return new Entry(ctx, env).fetch(request)
  },
}`

/** The header that authorises a request (NIP-98). */
export function authorization(method, url, by = admin, body) {
  const tags = [['u', url], ['method', method]]
  if (body || !['GET', 'HEAD'].includes(method)) tags.push(['payload', createHash('sha256').update(body ?? '').digest('hex')])
  const event = sign({ kind: 27235, tags }, by)
  return { authorization: `Nostr ${Buffer.from(JSON.stringify(event)).toString('base64')}` }
}

/** Sends a request to the agents' API, signed (NIP-98) by `by` unless that is null. */
export async function api(edge, method, path, { by = admin, body, headers = {} } = {}) {
  const url = edge.http + path
  const text = body === undefined ? undefined : JSON.stringify(body)
  const sent = { ...headers, ...(by ? authorization(method, url, by, text) : {}) }
  const response = await fetch(url, { method, headers: sent, body: text })
  const answer = await response.text()
  const isJson = response.headers.get('content-type')?.includes('json')
  return { status: response.status, text: answer, json: isJson && answer ? JSON.parse(answer) : undefined, headers: response.headers }
}

export async function deploy(edge, manifest, options) {
  const { status, json, text } = await api(edge, 'POST', '/agents', { body: manifest, ...options })
  assert.ok([200, 201].includes(status), text)
  return json
}

export const request = (agent, text, draft = {}) =>
  sign({ kind: 5050, tags: [['p', agent.pubkey], ['i', text, 'text']], content: '', ...draft })

/** Subscribes to the answers of a job. */
export const watch = (client, job) =>
  client.send('REQ', job.id, { kinds: [7000, job.kind + 1000], '#e': [job.id] })

/** Publishes a request and returns its answers in order, up to the result or a failure. */
export async function ask(client, job) {
  watch(client, job)
  assert.deepEqual(await client.publish(job), [true, ''])
  return answers(client, job)
}

/** The answers to a job that is watched, in order: `processing`, `error: words`, or `result: content`. */
export async function answers(client, job) {
  const seen = []
  for (;;) {
    const event = await client.event(job.id)
    const status = event.tags.find(([name]) => name === 'status')
    seen.push(event.kind === 7000 ? [status[1], status[2]].filter(Boolean).join(': ') : `result: ${event.content}`)
    if (event.kind !== 7000 || status[1] === 'error') break
  }
  client.send('CLOSE', job.id)
  return seen
}
