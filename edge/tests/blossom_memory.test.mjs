// Memory of workerd while large blobs go up and down: bytes of known hash never enter wasm.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { send, token } from './blossom_client.mjs'
import { startEdge } from './host.mjs'

const MB = 1_000_000
const SIZE = 95 * MB
const MORE_MAX = 32 * MB

/** A blob of SIZE bytes, a megabyte at a time. */
function* pieces(seed) {
  for (let n = 0; n < SIZE / MB; n++) {
    const piece = Buffer.alloc(MB, seed)
    piece.writeUInt32LE(n)
    yield piece
  }
}

function hashOf(seed) {
  const hash = createHash('sha256')
  for (const piece of pieces(seed)) hash.update(piece)
  return hash.digest('hex')
}

const field = (pid, name) => new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
/** The workerd that this process has started. */
const workerd = () =>
  readdirSync('/proc').filter(name => /^\d+$/.test(name)).find(pid => {
    try {
      return Number(field(pid, 'PPid')) === process.pid && readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('workerd')
    } catch {
      return false
    }
  })

test('95 MB up and down take less than 32 MB more', { skip: !existsSync('/proc/self/status') }, async () => {
  const edge = await startEdge()
  const pid = workerd()
  assert.ok(pid, 'workerd runs')
  const resident = () => Number(field(pid, 'VmRSS')) * 1_024
  const up = async seed => {
    const hash = hashOf(seed)
    const headers = { 'content-length': SIZE, ...token('upload', [hash]) }
    const { status, body } = await send(edge, 'PUT', '/upload', { body: Readable.from(pieces(seed)), headers })
    assert.equal(status, 201, `${body}`)
    return hash
  }
  const down = hash =>
    new Promise((done, fail) => {
      const digest = createHash('sha256')
      const request = httpRequest(`${edge.http}/${hash}`, { agent: false }, response => {
        response.on('data', piece => digest.update(piece)).on('error', fail)
        response.on('end', () => done(digest.digest('hex')))
      })
      request.on('error', fail).end()
    })
  for (const seed of [1, 2]) {
    const hash = await up(seed)
    assert.equal(await down(hash), hash)
  }
  const before = resident()
  let peak = before
  const watch = setInterval(() => { peak = Math.max(peak, resident()) }, 5)
  const hash = await up(3)
  const after = peak
  assert.equal(await down(hash), hash)
  clearInterval(watch)
  console.log(`resident MB: ${before / MB} warm, ${after / MB} at most during the upload, ${peak / MB} with the download`)
  assert.ok(peak - before < MORE_MAX, `${(peak - before) / MB} MB`)
  await edge.stop()
})
