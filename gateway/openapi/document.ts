// The declarations as two OpenAPI documents: one for everybody, and the admin API's for those who hold an admin key.
import { OpenAPIHono } from '@hono/zod-openapi'
import { ROUTES } from './routes.ts'

export type Part = 'public' | 'admin'

const INFO = {
  public: {
    title: 'sidepath',
    description:
      'Inference over one frozen base and many adapters: each caller gets exactly what their permissions allow. A model that may not be used does not exist. Bodies are refused where they have unknown fields or one key twice. Every answer carries x-request-id.',
  },
  admin: {
    title: 'sidepath admin',
    description:
      'The registry, permissions, experiments, limits and records. Everything takes an admin key; each change writes a row of the audit trail with it. Lists have at most 1,000 rows.',
  },
}
const KEY = { type: 'http', scheme: 'bearer' } as const

const isAdmin = (path: string) => path.startsWith('/admin/')

export function writeDocument(part: Part, version: string): object {
  const { openAPIRegistry: registry, ...app } = new OpenAPIHono()
  for (const route of ROUTES) if (isAdmin(route.path) === (part === 'admin')) registry.registerPath(route)
  if (part === 'admin') registry.registerComponent('securitySchemes', 'adminKey', KEY)
  else {
    const description = 'A key of a tenant (sp_…), or a token of an issuer that the tenant registered.'
    registry.registerComponent('securitySchemes', 'key', { ...KEY, description })
  }
  const license = { name: 'Apache-2.0', identifier: 'Apache-2.0' }
  const info = { ...INFO[part], version, license }
  const document = app.getOpenAPI31Document({ openapi: '3.1.0', info, servers: [{ url: '/' }] })
  return JSON.parse(JSON.stringify(document, tidy))
}

/** A query or a header that is not there is not null, which coerced schemas would take as well. */
function tidy(key: string, value: unknown): unknown {
  if (key === 'parameters' && !Array.isArray(value)) return undefined
  if (key !== 'parameters' || !Array.isArray(value)) return value
  return value.map((parameter) =>
    Array.isArray(parameter.schema?.type)
      ? {
          ...parameter,
          schema: { ...parameter.schema, type: parameter.schema.type.find((one: string) => one !== 'null') },
        }
      : parameter,
  )
}
