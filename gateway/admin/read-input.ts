// What an admin sends, parsed: names, digests, bodies and page limits.
import * as z from 'zod'
import { AdapterName, Digest } from '../../compiler/contract.ts'
import type { GatewayContext } from '../context.ts'
import { MODEL_NAME } from '../infer/parse-model.ts'
import { refuse } from '../infer/parse-request.ts'
import { readJsonBody } from '../read-body.ts'

/** Ids that an operator chooses. */
export const Id = AdapterName
export const KeyId = z.string().regex(/^[0-9A-Za-z]{16}$/)
/** Public model names. */
export const ModelName = z.string().regex(MODEL_NAME)
export const Time = z.int().min(0)
export { Digest }

/** Rows of one list answer; registries are meant to stay below it, records are paged by `before`. */
export const MAX_ROWS = 1000

export async function readBody<T extends z.ZodType>(c: GatewayContext, schema: T): Promise<z.output<T>> {
  const parsed = schema.safeParse(await readJsonBody(c.req.raw))
  return parsed.success ? parsed.data : refuse(parsed.error)
}

export function readParam(c: GatewayContext, name: string, schema: z.ZodType<string> = Id): string {
  const parsed = z.object({ [name]: schema }).safeParse({ [name]: c.req.param(name) })
  return parsed.success ? (parsed.data[name] ?? '') : refuse(parsed.error)
}

export const Page = z.object({
  limit: z.coerce.number().int().min(1).max(MAX_ROWS).default(100),
  before: z.coerce.number().int().min(0).default(Number.MAX_SAFE_INTEGER),
})

/** `?limit=&before=`: the newest rows that are older than `before`. */
export function readPage(c: GatewayContext): z.output<typeof Page> {
  const parsed = Page.safeParse({ limit: c.req.query('limit'), before: c.req.query('before') })
  return parsed.success ? parsed.data : refuse(parsed.error)
}
