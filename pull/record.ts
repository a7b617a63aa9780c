// `sidepath-pull.json`, beside what was pulled: from where, at which commit, and the SHA-256 of each file.
import * as z from 'zod'

export const RECORD_FILE = 'sidepath-pull.json'
export const RECORD_SCHEMA = 'sidepath.pull/1'

const Commit = z.string().regex(/^[0-9a-f]{40}$/)

export const RecordSchema = z.strictObject({
  schema: z.literal(RECORD_SCHEMA),
  /** `OWNER/NAME`. */
  repo: z.string(),
  /** As it was asked for. */
  revision: z.string(),
  /** What it stood for when it was pulled. */
  commit: Commit,
  files: z.array(
    z.strictObject({ path: z.string(), bytes: z.int().min(0), sha256: z.string().regex(/^[0-9a-f]{64}$/) }),
  ),
})
export type PullRecord = z.infer<typeof RecordSchema>

/** `undefined` for what is no record. */
export function parseRecord(text: string): PullRecord | undefined {
  try {
    return RecordSchema.safeParse(JSON.parse(text)).data
  } catch {
    return undefined
  }
}

export function formatRecord(record: PullRecord): string {
  return `${JSON.stringify(record, null, 2)}\n`
}
