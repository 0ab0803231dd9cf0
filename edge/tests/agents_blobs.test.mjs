// Agents and blobs in workerd: a result that no event holds is stored in R2, and blobs are inputs of jobs.
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { after, before, test } from 'node:test'
import { ask, deploy, request, vars } from './agents_client.mjs'
import { list, send, sha256, upload } from './blossom_client.mjs'
import { Client, key } from './client.mjs'
import { startEdge } from './host.mjs'

const ECHO = {
  name: 'echo',
  limits: { input_bytes: 1 << 20, output_bytes: 1 << 20 },
  network: { max_fetch_bytes: 400_000 },
  handlers: [{ kind: 5050, executor: 'echo' }],
}

/** A port that is free. */
const freePort = () =>
  new Promise(done => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => done(port))
    })
  })

let edge, client, echo
before(async () => {
  const port = await freePort()
  // Where blobs are is known only by the relay's URL.
  const config = { url: `ws://127.0.0.1:${port}`, blossom: { list_public: true, open: true } }
  edge = await startEdge({ port, vars, config })
  client = await Client.open(edge.url)
  echo = await deploy(edge, ECHO)
})
after(async () => {
  await client.close()
  await edge.stop()
})

const text = Array.from({ length: 30_000 }, (_, number) => `${number}`.padStart(9, '0') + '\n').join('')
/** A job whose input is at a URL. */
const reading = url => request(echo, '', { tags: [['p', echo.pubkey], ['i', url, 'url']] })

test('a large result is a blob of the agent, and the input of another job', async () => {
  const [processing, result] = await ask(client, request(echo, text))
  assert.equal(processing, 'processing')
  const url = result.replace(/^result: /, '')
  assert.equal(url, `${edge.http}/${sha256(text)}.txt`)
  const blob = await send(edge, 'GET', new URL(url).pathname)
  assert.deepEqual([blob.status, blob.headers['content-type']], [200, 'text/plain; charset=utf-8'])
  assert.ok(blob.body.equals(Buffer.from(text)), `${blob.body.length} bytes`)
  const listed = await (await fetch(`${edge.http}/list/${echo.pubkey}`)).json()
  assert.deepEqual(listed.map(blob => blob.url), [url], "it is the agent's")
  // A blob that is read is too large for a result once more, and is the same one.
  assert.deepEqual(await ask(client, reading(url)), ['processing', `result: ${url}`])
  assert.deepEqual((await list(edge, key)).length, 0, 'and nobody else has any')
})

test('blobs of customers are inputs by the rules of URLs', async () => {
  const stored = async (bytes, type) => {
    const { status, json } = await upload(edge, Buffer.from(bytes), { headers: { 'content-type': type } })
    assert.equal(status, 201)
    return json.url
  }
  const small = await stored('grüße', 'text/plain')
  for (const url of [small, small.replace(/\.txt$/, ''), small.replace('127.0.0.1', 'localhost')]) {
    assert.deepEqual(await ask(client, reading(url)), ['processing', 'result: grüße'], url)
  }
  for (const [url, words] of [
    [await stored([0, 1], 'application/octet-stream'), 'the URL does not serve a text'],
    [await stored([0xff, 0xfe], 'text/plain'), 'the text of the URL is not UTF-8'],
    [await stored('x'.repeat(400_001), 'text/plain'), 'the text of the URL is too large'],
    [`${edge.http}/${'0'.repeat(64)}.txt`, 'the URL answers with status 404'],
    [`${edge.http}/metrics`, 'the URL is not read: not https'],
  ]) {
    assert.deepEqual(await ask(client, reading(url)), ['processing', `error: ${words}`], url)
  }
})
