// The conformance suite of Blossom servers (conformance/) against the binary: no rule may be broken, whatever its strength, but those
// below, of which each has its reason.
import { test } from 'node:test'
import { breaksOnly } from '../../../conformance/run.mjs'
import { binary, isOtherHost, startRelay } from './relay.mjs'

/** Rules that are not kept. */
const BROKEN = {
  'cors-too-large': 'hyper answers a head of more than 16 KiB by itself, with 431 and no further header',
}

const options = {
  skip: (isOtherHost || process.env.RELAY_URL) && 'edge/tests/blossom_conformance.test.mjs runs it against the Worker',
}

for (const [name, env, args] of [
  ['by default', {}, []],
  ['with private addresses allowed', { RELAY_BLOSSOM__ALLOW_PRIVATE_ADDRESSES: 'true' }, ['--private-allowed']],
]) {
  test(`no rule of Blossom is broken ${name}`, options, async () => {
    const relay = await startRelay({ env })
    try {
      await breaksOnly(BROKEN, { binary: binary(), url: relay.http, args, least: 300 })
    } finally {
      await relay.stop()
    }
  })
}
