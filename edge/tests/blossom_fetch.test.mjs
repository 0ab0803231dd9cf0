// Blobs that workerd fetches from other servers, and what the passage of time does: parts that nobody completes, blobs that
// nobody downloads.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { assertBytes } from '../../server/tests/clients/bytes.mjs'
import { blob, controlled, send, sha256, tell, token, upload } from './blossom_client.mjs'
import { Client, generateSecretKey, sign, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

const MIB = 1 << 20
const bytes = blob(300_000)
const hash = sha256(bytes)
const large = blob(9 * MIB)

/** Another server. What it does is in the path. */
let hits = 0
const origin = createServer((request, response) => {
  hits += 1
  const [, what, left] = request.url.split('/')
  response.setHeader('content-type', 'video/mp4')
  if (what === 'chunked') return response.write(bytes.subarray(0, 10)), response.end(bytes.subarray(10))
  if (what === 'large') return response.write(large.subarray(0, 10)), response.end(large.subarray(10))
  if (what === 'early') {
    response.setHeader('content-length', bytes.length)
    return response.write(bytes.subarray(0, 1_000), () => setTimeout(() => response.destroy(), 50))
  }
  if (what === 'again' && left > 0) return response.writeHead(302, { location: `/again/${left - 1}` }).end()
  if (what === 'away') return response.writeHead(302, { location: 'ftp://127.0.0.1/' }).end()
  if (what === 'none') return response.writeHead(404).end()
  response.setHeader('content-length', bytes.length).end(bytes)
})

let edge, guarded, at
before(async () => {
  await new Promise(done => origin.listen(0, '127.0.0.1', done))
  at = `http://127.0.0.1:${origin.address().port}`
  const retention = [
    { types: ['text/plain'], unused_seconds: 86_400 },
    { types: ['text/html'], age_seconds: 20 },
  ]
  const blossom = { allow_private_addresses: true, pull_through: true, parts_seconds: 1, retention }
  edge = await startEdge({ main: controlled, config: { blossom } })
  guarded = await startEdge()
})
after(async () => {
  await edge.stop()
  await guarded.stop()
  origin.closeAllConnections()
  origin.close()
})

const mirror = (url, { on = edge, names = hash, by = generateSecretKey() } = {}) =>
  send(on, 'PUT', '/mirror', { body: Buffer.from(JSON.stringify({ url })), headers: token('upload', [names].flat(), by) })
const get = path => send(edge, 'GET', path)
const keys = async () => (await (await edge.miniflare.getR2Bucket('BLOBS')).list()).objects.map(({ key }) => key)

test('private addresses are not fetched, however they are written', async () => {
  const { port } = origin.address()
  for (const url of [`https://127.0.0.1:${port}/`, `https://localhost/`, 'https://[::1]/', 'https://2130706433/', 'https://169.254.169.254/']) {
    const { status, headers } = await mirror(url, { on: guarded })
    assert.ok(status >= 400 && headers['x-reason'], `${url}: ${status}`)
  }
  assert.equal((await mirror(`${at}/`, { on: guarded })).status, 400, 'http')
  assert.equal(hits, 0)
})

test('a blob is mirrored, through redirects, and without a length', async () => {
  const by = generateSecretKey()
  const first = await mirror(`${at}/plain/${hash}.mp4`, { by })
  assert.equal(first.status, 201, `${first.body}`)
  assert.deepEqual([first.json.size, first.json.type], [bytes.length, 'video/mp4'])
  assertBytes((await get(`/${hash}`)).body, bytes)
  assert.equal((await mirror(`${at}/none`, { by })).status, 200, 'it is theirs already, and is not fetched')
  assert.equal((await mirror(`${at}/none`)).status, 502, 'nobody owns what they have not shown')
  assert.equal((await mirror(`${at}/plain`)).status, 200, 'now there are two owners')

  for (const [path, expected] of [['none', 502], ['early', 502], ['away', 403], ['again/4', 502]]) {
    const names = sha256(blob())
    const { status, body } = await mirror(`${at}/${path}`, { names })
    assert.equal(status, expected, `${path}: ${body}`)
  }
  assert.equal((await mirror(`${at}/plain`, { names: sha256(blob()) })).status, 409, 'other bytes')
  assert.equal((await mirror(`${at}/large`, { names: sha256(large) })).status, 413, 'too many to hold in memory')
  assert.deepEqual(await keys(), [hash], 'and nothing is left of them')

  for (const path of ['again/3', 'chunked']) {
    await send(edge, 'DELETE', `/${hash}`)
    // Of several hashes it is not known which one comes.
    const { status, json, body } = await mirror(`${at}/${path}`, { names: [hash, sha256(blob())] })
    assert.equal(status, 200, `${path}: ${body}`)
    assert.equal(json.sha256, hash)
  }
})

test('a blob that is not here is pulled from the servers that the request names', async () => {
  const hidden = createServer((request, response) => {
    const found = pulled.find(one => request.url.includes(sha256(one)))
    if (!found) return response.writeHead(404).end()
    response.setHeader('content-length', found.length).setHeader('content-type', 'image/png')
    response.end(found)
  })
  const pulled = [blob(), blob(20_000)]
  await new Promise(done => hidden.listen(0, '127.0.0.1', done))
  const server = `http://127.0.0.1:${hidden.address().port}`
  const [named, listed] = pulled.map(sha256)
  assert.equal((await get(`/${named}`)).status, 404)
  const found = await get(`/${named}.png?xs=${encodeURIComponent(at + '/none')}&xs=${encodeURIComponent(server)}`)
  assert.equal(found.status, 200, `${found.body}`)
  assertBytes(found.body, pulled[0])

  // The list of an author's servers is on the relay.
  const by = generateSecretKey()
  const client = await Client.open(edge.url)
  const list = sign({ kind: 10063, tags: [['server', server]] }, by)
  assert.deepEqual(await client.publish(list), [true, ''])
  assertBytes((await get(`/${listed}?as=${list.pubkey}`)).body, pulled[1])
  await client.close()
  hidden.close()
  hidden.closeAllConnections()
  assertBytes((await get(`/${listed}`)).body, pulled[1])
})

test('where downloads are not public a token is needed', async () => {
  const secret = await startEdge({ config: { blossom: { get_public: false } } })
  const bytes = blob(2_000)
  assert.equal((await upload(secret, bytes)).status, 201)
  const ask = (method, headers) => send(secret, method, `/${sha256(bytes)}`, { headers })
  for (const method of ['GET', 'HEAD']) assert.equal((await ask(method, {})).status, 401)
  const range = { range: 'bytes=0-9', ...token('get') }
  const { status, body, headers } = await ask('GET', range)
  assert.deepEqual([status, body.length], [206, 10])
  assert.match(headers['cache-control'], /^private,/)
  assert.equal((await ask('GET', token('get', [sha256('x')]))).status, 401)
  await secret.stop()
})

/** Regression: who asked was told after five seconds that the blob was being removed. */
test('who asks for a blob that is being fetched gets it when it is here', async () => {
  const bytes = blob(50_000)
  let [go, asked] = []
  const may = new Promise(done => (go = done))
  const isAsked = new Promise(done => (asked = done))
  let requests = 0
  const slow = createServer(async (_, response) => {
    requests += 1
    asked()
    await may
    response.setHeader('content-length', bytes.length)
    response.end(bytes)
  })
  await new Promise(done => slow.listen(0, '127.0.0.1', done))
  const path = `/${sha256(bytes)}?xs=${encodeURIComponent(`http://127.0.0.1:${slow.address().port}`)}`
  const first = get(path)
  await isAsked
  const others = [get(path), get(path)]
  // Longer than whoever waits for a removal does.
  assert.equal(await Promise.race([...others, sleep(6_000).then(() => 'they wait')]), 'they wait')
  go()
  for (const { status, body } of await Promise.all([first, ...others])) {
    assert.equal(status, 200, `${body}`)
    assertBytes(body, bytes)
  }
  assert.equal(requests, 1, 'it is fetched once')
  slow.closeAllConnections()
  slow.close()
})

test('downloads are told to the index where a rule asks for it, once an hour', async () => {
  const text = Buffer.from(`text ${Math.random()}`)
  const requests = async path => {
    const before = (await tell(edge)).requests
    assert.equal((await get(path)).status, 200)
    await sleep(300)
    return (await tell(edge)).requests - before
  }
  await upload(edge, text, { headers: { 'content-type': 'text/plain' } })
  assert.equal(await requests(`/${sha256(text)}`), 1)
  assert.equal(await requests(`/${sha256(text)}`), 0)
  const other = blob()
  await upload(edge, other)
  assert.equal(await requests(`/${sha256(other)}`), 0, 'no rule is for its type')
})

/** It stayed at the time of the first upload. */
test('Sunset follows an upload that keeps a blob longer', async () => {
  const html = Buffer.from(`<p>${Math.random()}</p>`)
  const [hash, headers] = [sha256(html), { 'content-type': 'text/html' }]
  const sunset = async () => Date.parse((await send(edge, 'HEAD', `/${hash}`)).headers.sunset)
  /** What the bucket is asked for by an upload. */
  const uploading = async (by, status) => {
    const before = await tell(edge)
    assert.equal((await upload(edge, html, { by, headers })).status, status)
    const after = await tell(edge)
    return ['put', 'get', 'head'].map(name => (after[name] ?? 0) - (before[name] ?? 0))
  }
  const [first, second] = [generateSecretKey(), generateSecretKey()]
  // A second may begin during the upload: then the bytes are copied, to end with it.
  const stored = await uploading(first, 201)
  assert.ok(['1,0,1', '2,1,1'].includes(`${stored}`), `${stored}`)
  const before = await send(edge, 'GET', `/${hash}`)
  const start = await sunset()
  assert.ok(Math.abs(start - Date.now() - 20_000) < 5_000, `${start}`)
  assert.deepEqual(await uploading(first, 200), [0, 0, 1])
  assert.equal(await sunset(), start, 'a little is not counted')
  await sleep(3_100)
  assert.deepEqual(await uploading(first, 200), [1, 1, 1])
  const later = await sunset()
  assert.ok(later >= start + 2_000, `${later - start}`)
  await sleep(3_100)
  assert.deepEqual(await uploading(second, 200), [1, 1, 1], 'another owner, whose bytes are only hashed')
  assert.ok((await sunset()) >= later + 2_000)
  const after = await send(edge, 'GET', `/${hash}`)
  assertBytes(after.body, html)
  for (const name of ['content-type', 'last-modified', 'etag', 'content-length', 'content-security-policy']) {
    assert.equal(after.headers[name], before.headers[name], name)
  }
})

test('an alarm removes the parts of an upload that did not go on', async () => {
  const part = blob()
  const name = sha256(blob())
  const headers = { 'content-type': 'application/octet-stream', 'upload-type': 'video/mp4', 'upload-length': '5000', 'upload-offset': '0' }
  const sent = await send(edge, 'PATCH', `/${name}`, { body: part, headers: { ...headers, ...token('upload', [name]) } })
  assert.equal(sent.status, 204, `${sent.body}`)
  const parts = async () => (await keys()).filter(key => key.startsWith('parts/')).length
  assert.equal(await parts(), 1)
  for (let tries = 0; tries < 400 && (await parts()) > 0; tries++) await sleep(50)
  assert.equal(await parts(), 0)
})
