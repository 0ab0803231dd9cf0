// Zap receipts (NIP-57) as a Lightning service makes them. Nobody moves bitcoin.
import { randomBytes } from 'node:crypto'
import { sha256, signedInvoice } from './paid.mjs'
import { author, now } from './relay.mjs'

const service = author()

/** The receipt of a zap to `provider`, of the event `zapped`, whose zap request `signer` has signed; by default the customer. */
export function zapReceipt({ customer, provider, zapped, msat, at = now(), signer = customer }) {
  const about = [['p', provider.pubkey], ['e', zapped.id]]
  const tags = [...about, ['amount', String(msat)], ['relays', 'wss://relay.example']]
  const signed = signer.sign({ kind: 9734, created_at: at, content: '', tags })
  const description = JSON.stringify({ ...signed, pubkey: customer.pubkey })
  const invoice = signedInvoice({ amount: msat, purpose: sha256(description), expiry: 600, hash: sha256(randomBytes(32)) })
  return service.sign({ kind: 9735, created_at: at, content: '', tags: [...about, ['P', customer.pubkey], ['bolt11', invoice], ['description', description]] })
}
