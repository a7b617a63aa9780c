// The secrets of a local installation: made once, kept in the data folder with mode 0600, never printed.
import { randomBytes } from 'node:crypto'
import { z } from 'zod'
import { UserError } from '../fail.ts'
import type { DataFolder } from './data-folder.ts'

const FILE = 'secrets.json'
const SECRET_BYTES = 32

const Secrets = z.strictObject({
  /** Peppers of the key hashes by version; a new version is added beside the old, which old keys still need. */
  peppers: z.strictObject({ current: z.string(), keys: z.record(z.string(), z.base64()) }),
  /** Signs the capabilities that the gateway hands to the backend. */
  capabilitySecret: z.string().min(32),
})
export type Secrets = z.infer<typeof Secrets>

export async function readOrMakeSecrets(folder: DataFolder): Promise<Secrets> {
  const stored = await folder.readJson(FILE)
  if (stored === undefined) {
    const made: Secrets = {
      peppers: { current: '1', keys: { 1: randomBytes(SECRET_BYTES).toString('base64') } },
      capabilitySecret: randomBytes(SECRET_BYTES).toString('base64url'),
    }
    await folder.writePrivate(FILE, made)
    return made
  }
  const parsed = Secrets.safeParse(stored)
  if (!parsed.success) {
    throw new UserError(
      `"${folder.join(FILE)}" lacks what it should hold (${z.prettifyError(parsed.error)}); restore it from a backup. ` +
        'Every key in the database depends on it.',
    )
  }
  return parsed.data
}
