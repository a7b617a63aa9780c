// The record of a decision: the fields that a receipt is the digest of.
import type { UsedPart, usage } from '../database/records.ts'
import { sha256 } from '../digest.ts'
import type { MixedPart } from '../infer/choose-mix.ts'

/** 128 bits of the digest: enough to find a row, short enough for a header. */
const RECEIPT_CHARS = 32

const FIELDS = [
  'requestId',
  'tenantId',
  'keyId',
  'userId',
  'model',
  'baseDigest',
  'adapterId',
  'adapterDigest',
  'grantId',
  'experimentId',
  'bucketVersion',
  'armId',
  'mix',
  'assignedArmId',
  'factsDigest',
  'createdAt',
] as const

type Row = typeof usage.$inferSelect
export type Decided = Pick<Row, (typeof FIELDS)[number]>

const SORTED = [...FIELDS].sort()

/** As `digestRecord` of it, whose keys are sorted. */
export const receiptOf = (decided: Decided): string =>
  sha256(JSON.stringify(SORTED.map((field) => [field, decided[field]]))).slice(0, RECEIPT_CHARS)

export const decidedOf = (row: Decided): Decided =>
  Object.fromEntries(FIELDS.map((field) => [field, row[field]])) as unknown as Decided

export const recordPart = ({ adapter, weight, grantId }: MixedPart): UsedPart => ({
  adapter: adapter.id,
  digest: adapter.digest,
  weight,
  grant: grantId,
})
