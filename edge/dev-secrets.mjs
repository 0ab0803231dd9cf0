// Secrets for a Worker that runs on this machine: an owner of agents, and the secret that their keys come from.
//
//   node dev-secrets.mjs [DATA_FOLDER] [FILE]
//
// A local relay keeps both in its data folder, `relay-data` by default, and creates them on first use; so does this, so
// that `relay agent` finds the owner's key, and an agent has the same key on both. FILE (`.dev.vars`, which wrangler reads) is
// given the owner's public key and the secret. What else it says stays.
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { bytesToHex } from 'nostr-tools/utils'
import { decode, nsecEncode } from 'nostr-tools/nip19'
import { generateSecretKey, getPublicKey } from 'nostr-tools/pure'

const [data = 'relay-data', file = '.dev.vars'] = process.argv.slice(2)

/** The text of a file that only its owner may read; made by `create` if it is missing. */
function secret(path, create) {
  if (!existsSync(path)) {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    writeFileSync(path, `${create()}\n`, { mode: 0o600, flag: 'wx' })
    console.error(`created ${path}`)
  }
  return readFileSync(path, 'utf8').trim()
}

const owner = decode(secret(join(data, 'owner.key'), () => nsecEncode(generateSecretKey())))
const master = secret(join(data, 'agents', 'master.key'), () => bytesToHex(generateSecretKey()))

const vars = new Map()
for (const line of existsSync(file) ? readFileSync(file, 'utf8').split('\n') : []) {
  if (line.trim()) vars.set(line.split('=')[0].trim(), line)
}
const value = name => vars.get(name)?.slice(vars.get(name).indexOf('=') + 1).trim().replace(/^["']|["']$/g, '')
const admins = (value('ADMIN_PUBKEYS') ?? '').split(/[, ]+/).filter(admin => admin)
const pubkey = getPublicKey(owner.data)
if (!admins.includes(pubkey)) vars.set('ADMIN_PUBKEYS', `ADMIN_PUBKEYS=${[...admins, pubkey].join(',')}`)
if (!value('AGENT_MASTER_SECRET')) vars.set('AGENT_MASTER_SECRET', `AGENT_MASTER_SECRET="${master}"`)
writeFileSync(file, `${[...vars.values()].join('\n')}\n`, { mode: 0o600 })
// `mode` is for new files.
chmodSync(file, 0o600)
