// What tests of Blossom need: tokens, requests, and a Worker whose bucket counts, waits and fails.
import { createHash, randomBytes } from 'node:crypto'
import { request as httpRequest } from 'node:http'
import { getPublicKey, key, now, sign } from './client.mjs'

export const sha256 = bytes => createHash('sha256').update(bytes).digest('hex')

/** Bytes that no test has had. */
export const blob = (length = 1_000) => randomBytes(length)

/** The header with a token (BUD-11). */
export function token(verb, hashes = [], by = key) {
  const tags = [['t', verb], ['expiration', `${now() + 600}`], ...hashes.map(hash => ['x', hash])]
  const event = sign({ kind: 24242, tags, content: verb, created_at: now() - 1 }, by)
  return { authorization: `Nostr ${Buffer.from(JSON.stringify(event)).toString('base64url')}` }
}

/** Sends a request over a connection of its own; the body is bytes, or a stream of known length. */
export const send = (edge, method, path, { headers = {}, body } = {}) =>
  new Promise((done, fail) => {
    const length = body instanceof Uint8Array ? { 'content-length': body.length } : {}
    const request = httpRequest(edge.http + path, { method, headers: { ...length, ...headers }, agent: false })
    request.on('response', async response => {
      try {
        const bytes = Buffer.concat(await response.toArray())
        const isJson = /json/.test(response.headers['content-type'])
        const json = isJson && bytes.length ? JSON.parse(bytes) : undefined
        done({ status: response.statusCode, headers: response.headers, body: bytes, json })
      } catch (error) {
        fail(error)
      }
    })
    request.on('error', fail)
    if (body?.pipe) body.pipe(request)
    else request.end(body)
  })

export const upload = (edge, bytes, { by = key, headers = {}, path = '/upload' } = {}) =>
  send(edge, 'PUT', path, { body: bytes, headers: { ...token('upload', [sha256(bytes)], by), ...headers } })

export const remove = (edge, hash, by = key) =>
  send(edge, 'DELETE', `/${hash}`, { headers: token('delete', [hash], by) })

export const list = async (edge, by = key, query = '') =>
  (await send(edge, 'GET', `/list/${getPublicKey(by)}${query}`)).json

/**
 * The Worker with a bucket that can be told what to do, by the JSON that is sent to /test:
 * `{"fail": {"put": "before"}}`: the next put fails before it takes a byte; `"middle"`: when some have come; `"after"`: when all are
 * stored. `get`, `head` and `delete` likewise, `"before"` only.
 * `{"hold": "put"}`: calls of put wait, until `{"release": true}`; with `"only": 1` the next one.
 * `{"early": true}`: a put that may not overwrite what is there is refused before its bytes are read.
 * `{"page": 2, "age": 7200}`: a list has at most two keys, and what it lists has been stored two hours earlier than it was.
 * The answer is what has been counted: operations of the bucket, requests to the index and rows that it has written, as billed.
 */
export const controlled = `
import Entry, { BlossomDurableObject as Blossom } from './index.js'
export * from './index.js'
const counts = {}
const count = (name, by = 1) => { counts[name] = (counts[name] ?? 0) + by }
const instead = (of, own) => new Proxy(of, {
  get(_, name) {
    if (Object.hasOwn(own, name)) return own[name]
    const value = of[name]
    return typeof value === 'function' && name !== 'constructor' ? value.bind(of) : value
  },
})
let page, age = 0, early = false
let fail = {}, hold, held = 0, waiting = 0
const failing = async (operation, run) => {
  count(operation)
  waiting += 1
  // A promise can't be settled by another request.
  if (hold === operation && held-- > 0) while (hold === operation) await scheduler.wait(10)
  waiting -= 1
  const how = fail[operation]
  delete fail[operation]
  if (how === 'before') throw new Error(operation + ': We encountered an internal error. Please try again. (10001)')
  const done = await run(how)
  if (how === 'after') throw new Error(operation + ': Network connection lost.')
  return done
}
const bucket = of => instead(of, {
  put: (key, value, options) => failing('put', async how => {
    if (early && options?.onlyIf?.etagDoesNotMatch === '*' && (await of.head(key))) return null
    if (how !== 'middle') return of.put(key, value, options)
    const reader = value.getReader()
    await reader.read()
    await reader.cancel()
    throw new Error('put: We encountered an internal error. Please try again. (10001)')
  }),
  get: (...args) => failing('get', () => of.get(...args)),
  head: (...args) => failing('head', () => of.head(...args)),
  delete: (...args) => failing('delete', () => of.delete(...args)),
  list: options => failing('list', async () => {
    const listed = await of.list({ ...options, limit: page ?? options.limit })
    const objects = listed.objects.map(object => instead(object, { uploaded: new Date(object.uploaded - age * 1_000) }))
    return { objects, truncated: listed.truncated, delimitedPrefixes: [] }
  }),
})
const within = env => ({ ...env, BLOBS: bucket(env.BLOBS) })
const cursors = []
export class BlossomDurableObject {
  constructor(state, env) {
    const exec = (...args) => {
      const cursor = state.storage.sql.exec(...args)
      cursors.push(cursor)
      return cursor
    }
    // Setting an alarm is billed as a row.
    const setAlarm = at => {
      count('alarms')
      count('rows')
      return state.storage.setAlarm(at)
    }
    const storage = instead(state.storage, { sql: instead(state.storage.sql, { exec }), setAlarm })
    this.object = new Blossom(instead(state, { storage }), within(env))
  }
  fetch(request) {
    count('requests')
    return this.object.fetch(request)
  }
  alarm() {
    count('alarm runs')
    return this.object.alarm()
  }
}
export default {
  async fetch(request, env, ctx) {
    if (new URL(request.url).pathname === '/test') {
      const told = await request.json()
      if (told.fail) fail = told.fail
      if (told.hold) [hold, held] = [told.hold, told.only ?? Infinity]
      if ('page' in told) ({ page, age } = told)
      if ('early' in told) early = told.early
      if (told.release) hold = undefined
      for (const cursor of cursors.splice(0)) {
        count('rows', cursor.rowsWritten)
        count('rows read', cursor.rowsRead)
      }
      return Response.json({ ...counts, waiting })
    }
    return new Entry(ctx, within(env)).fetch(request)
  },
}`

/** Tells the bucket what to do; what has been counted. */
export const tell = async (edge, told = {}) =>
  (await send(edge, 'POST', '/test', { body: Buffer.from(JSON.stringify(told)) })).json
