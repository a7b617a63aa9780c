// The record of a decision: the fields that a receipt is the digest of.
import type { UsedPart, usage } from '../database/records.ts'
import type { MixedPart } from '../infer/choose-mix.ts'

/** 128 bits of the digest: enough to find a row, short enough for a header. */
export const RECEIPT_CHARS = 32

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

export const decidedOf = (row: Decided): Decided =>
  Object.fromEntries(FIELDS.map((field) => [field, row[field]])) as unknown as Decided

export const recordPart = ({ adapter, weight, grantId }: MixedPart): UsedPart => ({
  adapter: adapter.id,
  digest: adapter.digest,
  weight,
  grant: grantId,
})
