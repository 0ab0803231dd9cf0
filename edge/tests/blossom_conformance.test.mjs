// The conformance suite of Blossom servers (conformance/) against the Worker: no rule may be broken, whatever its strength, but those
// below. All of these are answers of local workerd or Miniflare, which a Worker of one line gets too.
import { test } from 'node:test'
import { breaksOnly } from '../../conformance/run.mjs'
import { serverBinary, startEdge } from './host.mjs'

/** Rules that are not kept. */
const BROKEN = {
  'get-identity': "Miniflare compresses text for clients that take it, although the response is `no-transform`",
  'get-date': 'workerd dates no response',
  'host-twice': 'workerd makes an invalid URL of two Host headers, and answers with 500',
  'cors-too-large': 'workerd answers a request line of 100 KB by itself, with 414 and no further header',
  'cors-everywhere': 'workerd answers a method that it does not know by itself, with 501 and no further header',
}

test('no rule of Blossom is broken by default', async () => {
  const edge = await startEdge()
  try {
    await breaksOnly(BROKEN, { binary: serverBinary(), url: edge.http, args: ['--body-pause-ms', '100', '--large-blob-bytes', '1048576'], least: 340 })
  } finally {
    await edge.stop()
  }
})

test('no rule of mirroring is broken where private addresses may be fetched from', async () => {
  const edge = await startEdge({ config: { blossom: { allow_private_addresses: true } } })
  try {
    const args = ['--private-allowed', '--only', 'mirror']
    await breaksOnly({}, { binary: serverBinary(), url: edge.http, args, least: 20 })
  } finally {
    await edge.stop()
  }
})
