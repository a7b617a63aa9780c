// How a route is declared: who may ask, what it takes, all that it may answer. The schemas of requests are the very ones
// that validate; those of answers are checked against what comes, by the tests. Nothing of this folder is in the Worker.
import { createRoute, type RouteConfig, z } from '@hono/zod-openapi'
import { Id } from '../admin/read-input.ts'
import { badRequest, guarded, INVALID, notFound, type Refusals, read, UNREADABLE, unconfigured } from './refusals.ts'

export type Method = 'get' | 'put' | 'post' | 'patch' | 'delete'

interface Answer {
  /** Schema by content type. */
  readonly content: Readonly<Record<string, z.ZodType>>
  readonly headers?: z.ZodObject
}
/** By status; a schema alone is of JSON. */
export type Answers = Readonly<Record<number, z.ZodType | Answer>>

const JSON_TYPE = 'application/json'

interface Declared {
  readonly tag: string
  readonly summary: string
  /** Of parameters in the path; those that are left out are ids. */
  readonly params?: Readonly<Record<string, z.ZodType>>
  readonly query?: z.ZodObject
  readonly headers?: z.ZodObject
  readonly body?: z.ZodType
  readonly answers: Answers
  /** Codes of a 400, beyond those of every parameter and body. */
  readonly codes?: readonly string[]
  /** Whether it may be a 404 `not_found`. */
  readonly finds?: boolean
  readonly refusals?: Refusals
}

const REASONS: Readonly<Record<number, string>> = {
  200: 'As asked.',
  201: 'Created.',
  202: 'Begun.',
  503: 'Not ready.',
}

/** Path parameters of hono's `/a/:b`. */
const namesIn = (path: string): string[] => [...path.matchAll(/:(\w+)/g)].map(([, name = '']) => name)

function declare(plane: 'public' | 'user' | 'admin', method: Method, path: string, declared: Declared): RouteConfig {
  const { tag, summary, params, query, headers, body, answers, codes = [], finds, refusals } = declared
  const names = namesIn(path)
  const shape = Object.fromEntries(names.map((name) => [name, params?.[name] ?? Id]))
  const reasons = body === undefined ? (names.length > 0 || query !== undefined ? INVALID : []) : UNREADABLE
  const [first, ...others] = [...reasons, ...codes]
  const answered = Object.entries(answers).map(([status, answer]) => {
    const { content: forms, headers }: Answer =
      answer instanceof z.ZodType ? { content: { [JSON_TYPE]: answer } } : answer
    const content = Object.fromEntries(Object.entries(forms).map(([type, schema]) => [type, { schema }]))
    return [status, { description: REASONS[Number(status)] ?? '', content, ...(headers ? { headers } : {}) }]
  })
  return createRoute({
    method,
    path: path.replaceAll(/:(\w+)/g, '{$1}'),
    operationId: operationIdOf(method, path),
    tags: [tag],
    summary,
    // An empty list is said outright: nothing is needed.
    security: plane === 'public' ? [] : [{ [plane === 'user' ? 'key' : 'adminKey']: [] }],
    request: {
      ...(names.length > 0 ? { params: z.object(shape) } : {}),
      ...(query === undefined ? {} : { query }),
      ...(headers === undefined ? {} : { headers }),
      ...(body === undefined ? {} : { body: { required: true, content: { [JSON_TYPE]: { schema: body } } } }),
    },
    responses: {
      ...(plane === 'public' ? unconfigured : guarded),
      ...(body === undefined ? {} : read),
      ...(first === undefined ? {} : badRequest(first, ...others)),
      ...(finds ? notFound : {}),
      ...refusals,
      ...Object.fromEntries(answered),
    },
  })
}

/** `get /admin/tenants/:tenant/users` → `getTenantsUsers`; of one of them `getTenantsUsersByUser`. */
function operationIdOf(method: Method, path: string): string {
  const parts = path.replace(/^\/(admin|v1)\//, '/').split('/')
  const last = parts.at(-1)?.startsWith(':') ? parts.at(-1)?.slice(1) : undefined
  const words = parts.filter((part) => part !== '' && !part.startsWith(':')).flatMap((part) => part.split(/[-.]/))
  const upper = (word: string) => word.slice(0, 1).toUpperCase() + word.slice(1)
  const plane = path.startsWith('/admin/') ? 'Admin' : ''
  return `${method}${plane}${words.map(upper).join('')}${last === undefined ? '' : `By${upper(last)}`}`
}

export const open = (method: Method, path: string, declared: Declared) => declare('public', method, path, declared)
export const forUsers = (method: Method, path: string, declared: Declared) => declare('user', method, path, declared)
export const forAdmins = (method: Method, path: string, declared: Declared) =>
  declare('admin', method, `/admin${path}`, declared)

export const listOf = (row: z.ZodType) => z.strictObject({ data: z.array(row) })
/** The answers of a PUT. */
export const putOf = (row: z.ZodType): Answers => ({ 200: row, 201: row })
