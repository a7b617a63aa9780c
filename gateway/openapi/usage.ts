// Declared: limits, prices, usage and receipts.
import { z } from '@hono/zod-openapi'
import { Body as LimitBody } from '../admin/limits.ts'
import { Body as PriceBody } from '../admin/prices.ts'
import { Digest, Id, KeyId, Page } from '../admin/read-input.ts'
import { Export } from '../admin/usage.ts'
import * as records from '../database/records.ts'
import { limits, prices } from '../database/schema.ts'
import { forAdmins, listOf, putOf } from './declare.ts'
import { rowOf } from './row-of.ts'

const Limit = rowOf(limits, { keyId: KeyId }).openapi('Limit')
const Window = rowOf(records.limitWindows).openapi('LimitWindow')
const Price = rowOf(prices, { baseDigest: Digest }).openapi('Price')
const row = rowOf(records.usage, {
  baseDigest: Digest,
  mix: z.array(z.strictObject({ adapter: Id, digest: Digest, weight: z.number(), grant: Id })),
  holds: z.array(z.strictObject({ limit: Id, subject: z.string(), start: z.int(), held: z.int() })),
})
const Usage = row.openapi('Usage')
/** The texts are what was digested, to the letter. */
const Receipt = row.extend({ facts: z.string().nullable(), now: z.string().nullable() }).openapi('Receipt')
/** Of an export: the columns of the usage row, or the sums of a group under the name of what it is by. */
const Exported = z.strictObject({
  data: z.array(z.record(z.string(), z.union([z.string(), z.number(), z.null()]))),
})

const tag = 'Limits and usage'

export const usage = [
  forAdmins('get', '/tenants/:tenant/limits', { tag, summary: 'Limits of a tenant.', answers: { 200: listOf(Limit) } }),
  forAdmins('put', '/tenants/:tenant/limits/:limit', {
    tag,
    summary: 'Limit requests, tokens or cost in a minute or a day; only amount and disabled can be changed.',
    body: LimitBody,
    codes: ['unknown_reference', 'immutable'],
    answers: putOf(Limit),
  }),
  forAdmins('get', '/tenants/:tenant/limits/:limit/windows', {
    tag,
    summary: 'What is used and held in the window of now.',
    answers: { 200: listOf(Window) },
  }),
  forAdmins('get', '/tenants/:tenant/prices', { tag, summary: 'Prices of a tenant.', answers: { 200: listOf(Price) } }),
  forAdmins('put', '/tenants/:tenant/prices/:price', {
    tag,
    summary: 'What a million tokens of an adapter or a base costs.',
    body: PriceBody,
    codes: ['unknown_reference', 'already_exists', 'immutable'],
    answers: putOf(Price),
  }),
  forAdmins('delete', '/tenants/:tenant/prices/:price', {
    tag,
    summary: 'Delete a price; the answer is what was deleted.',
    finds: true,
    answers: { 200: Price },
  }),
  forAdmins('get', '/tenants/:tenant/usage', {
    tag: 'Records',
    summary: 'What each request ran and took, newest first.',
    query: Page,
    answers: { 200: listOf(Usage) },
  }),
  forAdmins('get', '/tenants/:tenant/usage/export', {
    tag: 'Records',
    summary: 'Usage and cost of a span of time, row by row or summed up; it streams.',
    query: Export,
    answers: {
      200: {
        content: { 'text/csv': z.string(), 'application/json': Exported },
        headers: z.object({ 'content-disposition': z.string() }),
      },
    },
  }),
  forAdmins('get', '/receipts/:receipt', {
    tag: 'Records',
    summary: 'The record of one decision, and what it was decided on.',
    params: { receipt: z.string() },
    finds: true,
    answers: { 200: Receipt },
  }),
]
