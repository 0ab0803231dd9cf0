// Blossom in workerd: the requests of a day, races on the same bytes, objects and buckets that fail, and what it costs.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { assertBytes } from '../../server/tests/clients/bytes.mjs'
import { admin, authorization } from './agents_client.mjs'
import { blob, controlled, list, remove, send, sha256, tell, token, upload } from './blossom_client.mjs'
import { Client, generateSecretKey, getPublicKey, metrics, sign, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

/** Rows that the relay's object writes for itself: the position of a consumer, among others. */
const CONFIRMED = 'relay_rows_written_total{purpose="maintenance"}'

let edge, bucket
before(async () => {
  edge = await startEdge({ main: controlled, vars: { ADMIN_PUBKEYS: getPublicKey(admin) }, config: { market: { enabled: false } } })
  bucket = await edge.miniflare.getR2Bucket('BLOBS')
})
after(() => edge.stop())

const get = (hash, headers = {}) => send(edge, 'GET', `/${hash}`, { headers })
const head = hash => send(edge, 'HEAD', `/${hash}`)
const keys = async () => (await bucket.list()).objects.map(object => object.key)
const evict = () => edge.evict('blossom', 'BlossomDurableObject')

/** Waits until something is true, and returns it. */
async function until(what, wanted, patience = 15_000) {
  for (const end = Date.now() + patience; ; await sleep(50)) {
    const found = await wanted()
    if (found) return found
    if (Date.now() > end) throw new Error(`not so: ${what}`)
  }
}
const waiting = count => until(`${count} operations wait`, async () => (await tell(edge)).waiting === count)
const gone = hash => until(`no bytes of ${hash} are left`, async () => !(await keys()).includes(hash))

/** What `work` adds to the counts. */
async function counted(work) {
  const before = await tell(edge)
  await work()
  const after = await tell(edge)
  const added = Object.keys(after).map(name => [name, after[name] - (before[name] ?? 0)])
  return Object.fromEntries(added.filter(([, count]) => count !== 0))
}

/** Uploads a part of a blob, or of `sent` as if it were. */
function patch(bytes, from, to, sent = bytes, by = undefined) {
  const head = { 'content-type': 'application/octet-stream', 'upload-type': 'video/mp4' }
  const place = { 'upload-length': `${bytes.length}`, 'upload-offset': `${from}` }
  const headers = { ...head, ...place, ...token('upload', [sha256(bytes)], by) }
  return send(edge, 'PATCH', `/${sha256(bytes)}`, { body: sent.subarray(from, to), headers })
}

/** Sends a request that an administrator has signed. */
async function operate(method, path, body) {
  const bytes = body && Buffer.from(JSON.stringify(body))
  const headers = authorization(method, edge.http + path, admin, bytes)
  return send(edge, method, path, { headers, body: bytes })
}

test('a blob goes up, is served whole and in ranges, listed and deleted', async () => {
  const bytes = blob(1_000)
  const hash = sha256(bytes)
  const by = generateSecretKey()
  const first = await upload(edge, bytes, { by, headers: { 'content-type': 'image/png' } })
  assert.equal(first.status, 201, `${first.body}`)
  const { url, size, type } = first.json
  assert.deepEqual([url, size, type], [`${edge.http}/${hash}.png`, 1_000, 'image/png'])
  assert.equal((await upload(edge, bytes, { by })).status, 200)

  const whole = await get(`${hash}.png`)
  assertBytes(whole.body, bytes)
  const expected = { 'content-length': '1000', 'content-type': 'image/png', 'accept-ranges': 'bytes', 'access-control-allow-origin': '*' }
  for (const response of [whole, await head(hash)]) {
    assert.equal(response.status, 200)
    for (const [name, value] of Object.entries(expected)) assert.equal(response.headers[name], value, name)
  }
  for (const [range, from, to] of [['bytes=0-1', 0, 2], ['bytes=990-2000', 990, 1_000], ['bytes=-10', 990, 1_000]]) {
    const part = await get(hash, { range })
    assert.equal(part.status, 206)
    assertBytes(part.body, bytes.subarray(from, to), range)
    assert.equal(part.headers['content-range'], `bytes ${from}-${to - 1}/1000`)
  }
  assert.equal((await get(hash, { range: 'bytes=1000-' })).status, 416)
  const { etag } = whole.headers
  assert.equal((await get(hash, { 'if-none-match': etag })).status, 304)

  assert.deepEqual((await list(edge, by)).map(({ sha256 }) => sha256), [hash])
  assert.equal((await remove(edge, hash, by)).status, 204)
  assert.equal((await get(hash)).status, 404)
  assert.equal((await remove(edge, hash, by)).status, 404)
  assert.deepEqual(await list(edge, by), [])
  await gone(hash)
})

test('a blob of unknown hash is staged, and its type sniffed', async () => {
  const bytes = Buffer.concat([Buffer.from('%PDF-1.7\n'), blob(5_000)])
  const hash = sha256(bytes)
  const headers = token('upload', [sha256(blob()), hash])
  const { status, json, body } = await send(edge, 'PUT', '/upload', { body: bytes, headers })
  assert.equal(status, 201, `${body}`)
  assert.deepEqual([json.sha256, json.type], [hash, 'application/pdf'])
  assertBytes((await get(hash)).body, bytes)
  const other = await send(edge, 'PUT', '/upload', { body: blob(), headers })
  assert.equal(other.status, 401, 'its hash is none of those in the token')
  assert.deepEqual((await keys()).filter(name => name.includes('/')), [], 'nothing is left staged')
})

test('an empty blob, and a body with another hash', async () => {
  const hash = sha256('')
  assert.equal((await upload(edge, new Uint8Array())).status, 201)
  const empty = await get(hash)
  assert.deepEqual([empty.status, empty.headers['content-length']], [200, '0'])
  const bytes = blob()
  const headers = token('upload', [sha256(bytes)])
  const wrong = await send(edge, 'PUT', '/upload', { body: blob(), headers: { ...headers, 'x-sha-256': sha256(bytes) } })
  assert.equal(wrong.status, 409, `${wrong.body}`)
  assert.equal((await send(edge, 'PUT', '/upload', { body: blob(), headers })).status, 401, 'not what the token is for')
  assert.equal((await get(sha256(bytes))).status, 404)
})

test('PUT of a hash, and parts in any order', async () => {
  const bytes = blob(3_000)
  const hash = sha256(bytes)
  assert.equal((await upload(edge, bytes, { path: `/${hash}` })).status, 201)
  const other = blob(3_000)
  const name = sha256(other)
  const part = (from, to) => patch(other, from, to)
  assert.equal((await part(1_000, 2_500)).status, 204)
  assert.equal((await part(2_500, 3_000)).status, 204)
  await evict()
  const last = await part(0, 1_200)
  assert.equal(last.status, 201, `${last.body}`)
  const whole = await get(name)
  assertBytes(whole.body, other)
  assert.equal(whole.headers['content-type'], 'video/mp4')
  await until('no parts are left', async () => !(await keys()).some(key => key.startsWith('parts/')))
})

/** What the server answers to each of these, and by how many operations of the bucket. */
test('a range costs one operation, and the answer is what the server gives', async () => {
  const bytes = blob(1_000)
  const hash = sha256(bytes)
  const { json } = await upload(edge, bytes)
  const { etag, 'last-modified': modified } = (await head(hash)).headers
  assert.equal(Date.parse(modified) / 1_000, json.uploaded, 'the time is that of the descriptor')
  assert.equal((await list(edge)).find(found => found.sha256 === hash).uploaded, json.uploaded)
  const earlier = new Date(Date.parse(modified) - 5_000).toUTCString()
  const all = [200, 0, 1_000]
  const cases = [
    ['bytes=0-9', {}, [206, 0, 10], { get: 1 }],
    ['bytes=999-', {}, [206, 999, 1_000], { get: 1 }],
    ['bytes=990-2000', {}, [206, 990, 1_000], { get: 1 }],
    ['bytes=0-18446744073709551615', {}, [206, 0, 1_000], { get: 1 }],
    ['bytes=-10', {}, [206, 990, 1_000], { get: 1 }],
    ['bytes=-5000', {}, [206, 0, 1_000], { get: 1 }],
    ['bytes=1000-', {}, [416], { get: 1, head: 1 }],
    ['bytes=1000-1001', {}, [416], { get: 1, head: 1 }],
    ['bytes=99999999999999999999-', {}, [416], { head: 1 }],
    ['bytes=-0', {}, [416], { head: 1 }],
    ['bytes=0-1,5-6', {}, all, { get: 1 }],
    ['bytes=9-0', {}, all, { get: 1 }],
    ['lines=0-9', {}, all, { get: 1 }],
    ['bytes=0-9', { 'if-range': etag }, [206, 0, 10], { get: 1 }],
    ['bytes=0-9', { 'if-range': '"x"' }, all, { get: 1 }],
    ['bytes=0-9', { 'if-range': `W/${etag}` }, all, { get: 1 }],
    ['bytes=0-9', { 'if-range': modified }, [206, 0, 10], { head: 1, get: 1 }],
    ['bytes=0-9', { 'if-range': earlier }, all, { head: 1, get: 1 }],
    ['bytes=0-9', { 'if-none-match': '"x"' }, [206, 0, 10], { get: 1 }],
    ['bytes=0-9', { 'if-none-match': etag }, [304], { head: 1 }],
    ['bytes=0-9', { 'if-match': '"x"' }, [412], { head: 1 }],
    [undefined, { 'if-modified-since': modified }, [304], { head: 1 }],
    [undefined, { 'if-modified-since': earlier }, all, { head: 1, get: 1 }],
  ]
  for (const [range, headers, [status, from, to], operations] of cases) {
    const what = `${range} ${JSON.stringify(headers)}`
    let answer
    const cost = await counted(async () => (answer = await get(hash, range ? { range, ...headers } : headers)))
    assert.equal(answer.status, status, what)
    assert.deepEqual(cost, operations, what)
    if (status === 416) assert.equal(answer.headers['content-range'], 'bytes */1000', what)
    if (to === undefined) continue
    assertBytes(answer.body, bytes.subarray(from, to), what)
    assert.equal(answer.headers['content-length'], `${to - from}`, what)
    assert.equal(answer.headers['content-range'], status === 206 ? `bytes ${from}-${to - 1}/1000` : undefined, what)
  }
  const empty = sha256('')
  await upload(edge, new Uint8Array())
  for (const range of ['bytes=0-', 'bytes=0-0']) assert.equal((await get(empty, { range })).status, 416)
  const { status, headers } = await get(empty, { range: 'bytes=-5' })
  assert.deepEqual([status, headers['content-length']], [200, '0'])
})

test('a blob that is deleted while it is looked for is 404', async () => {
  const bytes = blob()
  const hash = sha256(bytes)
  await upload(edge, bytes)
  const { 'last-modified': modified } = (await head(hash)).headers
  // A range that depends on a date takes two operations.
  await tell(edge, { hold: 'get', only: 1 })
  const getting = get(hash, { range: 'bytes=0-9', 'if-range': modified })
  await waiting(1)
  assert.equal((await remove(edge, hash)).status, 204)
  await tell(edge, { release: true })
  const { status, headers } = await getting
  assert.deepEqual([status, headers['x-reason'], headers['access-control-allow-origin']], [404, 'not found', '*'])
})

test('the type that an owner tells later is served, and nothing else changes', async () => {
  for (const bytes of [blob(3_000), new Uint8Array()]) {
    const hash = sha256(bytes)
    const by = generateSecretKey()
    if (!bytes.length) await operate('DELETE', `/blossom/blobs/${hash}`)
    const typed = type => upload(edge, bytes, { by, headers: { 'content-type': type } })
    assert.equal((await upload(edge, bytes, { by })).status, 201)
    const before = (await head(hash)).headers
    assert.equal(before['content-type'], 'application/octet-stream')
    // The date of a copy would be another one.
    await sleep(1_100)
    await tell(edge, { fail: { put: 'before' } })
    const failed = await typed('text/markdown')
    assert.deepEqual([failed.status, failed.json.type], [200, 'application/octet-stream'], 'as the bucket has it')
    let cost = await counted(async () => assert.equal((await typed('text/markdown')).json.type, 'text/markdown'))
    assert.deepEqual([cost.get, cost.put, cost.requests, cost.rows], [1, 1, 2, 1])
    const after = await get(hash)
    assertBytes(after.body, bytes)
    for (const [name, value] of Object.entries({ ...before, 'content-type': 'text/markdown' })) {
      if (!['date', 'connection', 'keep-alive'].includes(name)) assert.equal(after.headers[name], value, name)
    }
    assert.equal((await head(hash)).headers['content-type'], 'text/markdown')
    cost = await counted(async () => assert.equal((await typed('text/html')).json.type, 'text/markdown'))
    assert.deepEqual([cost.get, cost.put, cost.requests], [undefined, undefined, 1], 'it is known')
  }
})

test('a blob that is deleted while it gets a type stays deleted', async () => {
  const bytes = blob()
  const hash = sha256(bytes)
  await upload(edge, bytes)
  await tell(edge, { hold: 'put', only: 1 })
  const telling = upload(edge, bytes, { headers: { 'content-type': 'text/markdown' } })
  await waiting(1)
  assert.equal((await remove(edge, hash)).status, 204)
  await tell(edge, { release: true })
  await telling
  assert.equal((await get(hash)).status, 404)
  assert.ok(!(await keys()).includes(hash))
})

test('administrators see reports, ban and unban', async () => {
  const bytes = blob()
  const hash = sha256(bytes)
  await upload(edge, bytes)
  const report = sign({ kind: 1984, tags: [['x', hash, 'malware']], content: 'bad' }, generateSecretKey())
  assert.equal((await send(edge, 'PUT', '/report', { body: Buffer.from(JSON.stringify(report)) })).status, 204)
  const { json } = await operate('GET', '/blossom/reports')
  assert.equal(json.reports[0].sha256, hash)
  assert.equal((await operate('PUT', `/blossom/bans/${hash}`, { reason: 'malware' })).status, 204)
  assert.equal((await get(hash)).status, 404)
  assert.equal((await upload(edge, bytes)).status, 403)
  assert.equal((await operate('GET', '/blossom/bans')).json.bans[0].reason, 'malware')
  assert.equal((await operate('DELETE', `/blossom/bans/${hash}`)).status, 204)
  assert.equal((await upload(edge, bytes)).status, 201)
  assert.equal((await operate('GET', `/blossom/blobs/${hash}`)).json.blob.sha256, hash)
  assert.equal((await operate('POST', '/blossom/gc')).status, 200)
  const url = `/blossom/bans/${hash}`
  const stranger = authorization('PUT', edge.http + url, generateSecretKey())
  assert.equal((await send(edge, 'PUT', url, { headers: stranger })).status, 403)
})

test('a signed request of an administrator is carried out once, whoever gets it again', async () => {
  const path = `/blossom/bans/${sha256(blob())}`
  const headers = authorization('PUT', edge.http + path, admin)
  const again = () => send(edge, 'PUT', path, { headers })
  assert.equal((await again()).status, 204)
  assert.equal((await operate('DELETE', path)).status, 204)
  assert.equal((await again()).status, 401)
  // Another isolate of the Worker would have no memory of it, nor would an object that was started again.
  await evict()
  const refused = await again()
  assert.equal(refused.status, 401)
  assert.match(refused.headers['x-reason'], /has been used/)
  assert.equal((await operate('DELETE', path)).status, 404, 'it is not banned')
})

test('an upload survives that the index loses its memory before it ends', async () => {
  const bytes = blob()
  await tell(edge, { hold: 'put' })
  const uploading = upload(edge, bytes)
  await waiting(1)
  assert.ok(await evict())
  await tell(edge, { release: true })
  const { status, body } = await uploading
  assert.equal(status, 201, `${body}`)
  assertBytes((await get(sha256(bytes))).body, bytes)
})

test('bytes that are being removed are not uploaded until they are gone', async () => {
  const bytes = blob()
  const hash = sha256(bytes)
  const other = generateSecretKey()
  await upload(edge, bytes)
  await tell(edge, { hold: 'delete' })
  const removing = remove(edge, hash)
  await waiting(1)
  const before = await tell(edge)
  const uploading = upload(edge, bytes, { by: other })
  await sleep(500)
  assert.equal((await tell(edge)).put, before.put, 'the upload waits')
  await tell(edge, { release: true })
  assert.deepEqual([(await removing).status, (await uploading).status], [204, 201])
  assertBytes((await get(hash)).body, bytes)
})

test('the last owner takes the blob with him', async () => {
  const bytes = blob()
  const hash = sha256(bytes)
  const other = generateSecretKey()
  await upload(edge, bytes)
  assert.equal((await upload(edge, bytes, { by: other })).status, 200)
  assert.equal((await remove(edge, hash, generateSecretKey())).status, 403, 'nobody else')
  assert.equal((await remove(edge, hash)).status, 204)
  assert.equal((await get(hash)).status, 200)
  assert.equal((await remove(edge, hash, other)).status, 204)
  assert.equal((await get(hash)).status, 404)
  await gone(hash)
})

test('a slower upload of the same bytes changes nothing of a live blob', async () => {
  const other = generateSecretKey()
  for (const several of [false, true]) {
    const bytes = blob()
    const hash = sha256(bytes)
    // With several hashes in the token it is staged first.
    const slower = { ...token('upload', several ? [hash, sha256('x')] : [hash], other), 'content-type': 'text/plain' }
    await tell(edge, { hold: 'put', only: 1 })
    const uploading = send(edge, 'PUT', '/upload', { body: bytes, headers: slower })
    await waiting(1)
    assert.equal((await upload(edge, bytes, { headers: { 'content-type': 'video/mp4' } })).status, 201)
    const { version } = await bucket.head(hash)
    await tell(edge, { release: true })
    // R2 may refuse an upload before it has checked its hash. A staged one has been checked.
    let { status, json, headers, body } = await uploading
    if (!several) {
      assert.deepEqual([status, headers['retry-after']], [503, '5'], `${body}`)
      assert.deepEqual(await list(edge, other), [], 'nobody owns what they have not shown')
      ;({ status, json, body } = await send(edge, 'PUT', '/upload', { body: bytes, headers: slower }))
    }
    assert.equal(status, 200, `${body}`)
    assert.equal(json.type, 'video/mp4')
    assert.equal((await get(hash)).headers['content-type'], 'video/mp4')
    assert.equal((await bucket.head(hash)).version, version, 'the object is the same')
    assert.deepEqual((await list(edge, other)).map(found => found.type).slice(0, 1), ['video/mp4'])
  }
  // The same key over two connections.
  const twice = blob()
  await tell(edge, { hold: 'put', only: 1 })
  const again = upload(edge, twice)
  await waiting(1)
  assert.equal((await upload(edge, twice)).status, 201)
  await tell(edge, { release: true })
  assert.equal((await again).status, 200)
  // Whoever has only the hash.
  const bytes = blob()
  await tell(edge, { hold: 'put', only: 1 })
  const headers = { ...token('upload', [sha256(bytes)], other), 'x-sha-256': sha256(bytes) }
  const lying = send(edge, 'PUT', '/upload', { body: blob(), headers })
  await waiting(1)
  assert.equal((await upload(edge, bytes)).status, 201)
  await tell(edge, { release: true })
  assert.equal((await lying).status, 409, 'workerd looks at the hash')
})

/** Cloudflare does not say whether R2 looks at the hash of a body before it refuses to overwrite; workerd does. */
test('a bucket that refuses to overwrite before it looks at the bytes makes nobody an owner', async () => {
  const other = generateSecretKey()
  const bytes = blob()
  await tell(edge, { hold: 'put', only: 1, early: true })
  const headers = { ...token('upload', [sha256(bytes)], other), 'x-sha-256': sha256(bytes) }
  const lying = send(edge, 'PUT', '/upload', { body: blob(), headers })
  await waiting(1)
  assert.equal((await upload(edge, bytes)).status, 201)
  await tell(edge, { release: true })
  const { status, headers: told } = await lying
  assert.deepEqual([status, told['retry-after']], [503, '5'])
  assert.deepEqual(await list(edge, other), [])
  assert.equal((await send(edge, 'PUT', '/upload', { body: blob(), headers })).status, 409, 'then it is looked at')
  assert.equal((await upload(edge, bytes, { by: other })).status, 200)
  // Parts are read once more.
  for (const [last, wanted] of [[bytes => bytes, 200], [() => blob(), 409]]) {
    const parted = blob(2_000)
    const sent = Buffer.concat([parted.subarray(0, 1_000), last(parted.subarray(1_000))])
    const part = (from, to) => patch(parted, from, to, sent, other)
    assert.equal((await part(0, 1_000)).status, 204)
    // They are joined only at the second time, when all are there.
    await tell(edge, { fail: { get: 'before' } })
    assert.equal((await part(1_000, 2_000)).status, 503)
    await tell(edge, { hold: 'put', only: 1 })
    const joining = part(1_000, 2_000)
    await waiting(1)
    assert.equal((await upload(edge, parted)).status, 201)
    await tell(edge, { release: true })
    assert.equal((await joining).status, wanted)
    assert.equal((await list(edge, other)).some(found => found.sha256 === sha256(parted)), wanted === 200)
  }
  await tell(edge, { early: false })
})

test('a blob that is banned during its upload is not stored', async () => {
  const bytes = blob()
  const hash = sha256(bytes)
  await tell(edge, { hold: 'put' })
  const uploading = upload(edge, bytes)
  await waiting(1)
  assert.equal((await operate('PUT', `/blossom/bans/${hash}`)).status, 204)
  await tell(edge, { release: true })
  assert.equal((await uploading).status, 403)
  await gone(hash)
})

test('bytes that the index does not know go when an administrator asks, and nothing else', async () => {
  const [lost, late, banned, deleted] = [blob(), blob(), blob(), blob()]
  const live = blob()
  assert.equal((await upload(edge, live)).status, 201)
  const slow = blob()
  await tell(edge, { hold: 'put', only: 1 })
  const uploading = upload(edge, slow)
  await waiting(1)
  const unknown = [sha256(lost), 'staged/4000000', `parts/${sha256(lost)}/4000001`]
  for (const key of [...unknown, 'readme.txt']) await bucket.put(key, lost)
  // As if its bytes had been stored, and the index not been told yet.
  await bucket.put(sha256(slow), slow)

  assert.equal((await operate('POST', '/blossom/gc')).status, 200)
  await until('the bucket is listed', async () => (await tell(edge)).list > 0)
  assert.ok((await keys()).includes(sha256(lost)), 'it is too young')
  const { list: pages } = await tell(edge, { page: 2, age: 7_200 })
  assert.equal((await operate('POST', '/blossom/gc')).status, 200)
  for (const key of unknown) await gone(key)
  const left = await keys()
  const wanted = Math.ceil(left.length / 2)
  await until('all pages are listed', async () => (await tell(edge)).list - pages >= wanted)
  for (const key of [sha256(live), sha256(slow), 'readme.txt']) assert.ok(left.includes(key), key)
  await tell(edge, { page: null, age: 0, release: true })
  assert.equal((await uploading).status, 503, 'the bucket may not have looked at what came')
  await until('it is taken', async () => (await upload(edge, slow)).status === 201)
  for (const bytes of [live, slow]) assertBytes((await get(sha256(bytes))).body, bytes)

  // Bans and deletions also remove bytes of which the index has no row.
  for (const bytes of [banned, deleted]) await bucket.put(sha256(bytes), bytes)
  await bucket.put(sha256(late), late)
  assert.equal((await operate('DELETE', `/blossom/blobs/${sha256(deleted)}`)).status, 404)
  assert.equal((await operate('PUT', `/blossom/bans/${sha256(banned)}`)).status, 204)
  for (const bytes of [banned, deleted]) assert.equal((await get(sha256(bytes))).status, 404)
  assert.equal((await get(sha256(late))).status, 200, 'a young one stays')
  await bucket.delete(['readme.txt', sha256(late)])
})

test('deletions and requests to vanish on the relay delete blobs', async () => {
  const by = generateSecretKey()
  const [described, kept] = [blob(), blob()]
  for (const bytes of [described, kept]) assert.equal((await upload(edge, bytes, { by })).status, 201)
  const client = await Client.open(edge.url)
  const description = sign({ kind: 1063, tags: [['x', sha256(described)], ['m', 'image/png']] }, by)
  assert.deepEqual(await client.publish(description), [true, ''])
  const events = async () => (await operate('GET', `/blossom/blobs/${sha256(described)}`)).json.events
  await until('the description is known', async () => (await events()).length === 1)
  // A deletion that names another event, or comes from another key, changes nothing.
  assert.deepEqual(await client.publish(sign({ kind: 5, tags: [['e', sha256('x')]] }, by)), [true, ''])
  await evict()
  assert.deepEqual(await client.publish(sign({ kind: 5, tags: [['e', description.id]] }, by)), [true, ''])
  await until('the described blob is gone', async () => (await get(sha256(described))).status === 404)
  assert.equal((await get(sha256(kept))).status, 200)

  const vanish = relay => client.publish(sign({ kind: 62, tags: [['relay', relay]] }, by))
  assert.deepEqual(await vanish('ALL_RELAYS'), [true, ''])
  await until('all blobs are gone', async () => (await get(sha256(kept))).status === 404)
  assert.deepEqual(await list(edge, by), [])
  await client.close()
})

test('a bucket that fails leaves nothing behind', async () => {
  for (const how of ['before', 'middle', 'after']) {
    const bytes = blob(200_000)
    await tell(edge, { fail: { put: how } })
    const failed = await upload(edge, bytes)
    assert.ok(failed.status >= 500, `${how}: ${failed.status} ${failed.body}`)
    assert.ok(failed.headers['x-reason'])
    await gone(sha256(bytes))
    assert.equal((await upload(edge, bytes)).status, 201, `${how}: it is taken the next time`)
  }
  const bytes = blob()
  await upload(edge, bytes)
  await tell(edge, { fail: { get: 'before' } })
  assert.ok((await get(sha256(bytes))).status >= 500)
  await tell(edge, { fail: { head: 'before' } })
  assert.ok((await head(sha256(bytes))).status >= 500)
  await tell(edge, { fail: { get: 'before', head: 'before' } })
  assert.ok((await get(sha256(bytes), { range: 'bytes=0-9' })).status >= 500)
  await tell(edge, { fail: { get: 'before' } })
  assert.equal((await get(sha256(bytes), { range: 'bytes=0-9' })).status, 206, 'another try')
  assert.equal((await get(sha256(bytes))).status, 200)
})

test('a removal that fails is tried again by an alarm', async () => {
  const bytes = blob()
  const hash = sha256(bytes)
  await upload(edge, bytes)
  await tell(edge, { fail: { delete: 'before' } })
  assert.equal((await remove(edge, hash)).status, 204)
  assert.ok((await keys()).includes(hash))
  await gone(hash)
  assert.equal((await upload(edge, bytes)).status, 201)
})

test('what requests cost', async () => {
  const bytes = blob()
  const hash = sha256(bytes)
  const parted = blob(10_000)
  // The sum of totals, and an alarm that looks for abandoned uploads, are written at first.
  await upload(edge, blob())
  const costs = {
    upload: await counted(() => upload(edge, bytes)),
    again: await counted(() => upload(edge, bytes)),
    // An upload whose token names several hashes.
    staged: await counted(async () => {
      const staged = blob()
      const headers = token('upload', [sha256(bytes), sha256(staged)])
      assert.equal((await send(edge, 'PUT', '/upload', { body: staged, headers })).status, 201)
    }),
    parts: await counted(async () => {
      const { alarms } = await tell(edge)
      for (const offset of [0, 5_000]) await patch(parted, offset, offset + 5_000)
      // An alarm removes the parts, both by one operation, and sets the next one.
      await until('the parts are removed', async () => (await tell(edge)).alarms === alarms + 2)
    }),
    get: await counted(() => get(hash)),
    head: await counted(() => head(hash)),
    range: await counted(() => get(hash, { range: 'bytes=0-9' })),
    suffix: await counted(() => get(hash, { range: 'bytes=-10' })),
    unsatisfiable: await counted(() => get(hash, { range: 'bytes=1000-' })),
    missing: await counted(() => get(sha256(blob()))),
    list: await counted(() => list(edge)),
    delete: await counted(() => remove(edge, hash)),
  }
  const client = await Client.open(edge.url)
  const before = await metrics(edge.http)
  costs.deletion = await counted(async () => {
    const delivered = (await tell(edge)).requests + 1
    assert.deepEqual(await client.publish(sign({ kind: 5, tags: [['e', sha256('y')]] })), [true, ''])
    await until('the deletion is delivered', async () => (await tell(edge)).requests >= delivered)
  })
  await until('and confirmed', async () => (await metrics(edge.http))[CONFIRMED] === before[CONFIRMED] + 1)
  await client.close()
  console.log(costs)
  const without = ({ 'rows read': _, ...rest }) => rest
  assert.deepEqual(without(costs.upload), { requests: 2, put: 1, rows: 6 })
  assert.deepEqual(without(costs.again), { requests: 1 })
  assert.deepEqual(without(costs.staged), { requests: 3, put: 2, get: 3, head: 1, delete: 1, rows: 7 })
  assert.deepEqual(without(costs.parts), {
    requests: 5, put: 3, get: 2, delete: 1, alarms: 2, 'alarm runs': 1, rows: 18,
  })
  assert.deepEqual(costs.get, { get: 1 })
  assert.deepEqual(costs.head, { head: 1 })
  assert.deepEqual(costs.range, { get: 1 })
  assert.deepEqual(costs.suffix, { get: 1 })
  assert.deepEqual(costs.unsatisfiable, { get: 1, head: 1 })
  assert.deepEqual(costs.missing, { get: 1 })
  assert.deepEqual(without(costs.list), { requests: 1 })
  assert.deepEqual(without(costs.deletion), { requests: 1, rows: 1 }, 'of a kind 5 that concerns no blob')
  assert.deepEqual(without(costs.delete), { requests: 1, delete: 1, rows: 5 })
})
