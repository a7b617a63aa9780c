// The OpenAPI documents: every route is in them, with the schemas that validate, and they are what the gateway serves.
import type { RouteConfig } from '@hono/zod-openapi'
import { beforeAll, describe, expect, it, vi } from 'vitest'
import publicDocument from '../../docs/openapi.json' with { type: 'json' }
import adminDocument from '../../docs/openapi-admin.json' with { type: 'json' }
import { writeDocument } from '../../gateway/openapi/document.ts'
import { ROUTES } from '../../gateway/openapi/routes.ts'
import { BASE, createHouse, digest, type House, seed } from './house.ts'

let house: House
let key: string
beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  key = (await house.mint('acme')).key
})

const bodyOf = ({ request }: RouteConfig) => {
  const json = request?.body?.content['application/json']
  const body = json && 'schema' in json ? json.schema : undefined
  return body !== undefined && 'safeParse' in body ? body : undefined
}

const filled = (path: string) =>
  path
    .replace('{digest}', BASE)
    .replace('{key}', 'z'.repeat(16))
    .replace('{job}', digest('f'))
    .replace('{tenant}', 'acme')
    .replaceAll(/\{\w+\}/g, 'one')

describe('the declarations', () => {
  it('are of every route of the table, and of no other', () => {
    const served = house.app.routes.filter(({ method }) => method !== 'ALL')
    const spell = (method: string, path: string) => `${method.toUpperCase()} ${path}`
    const declared = ROUTES.map(({ method, path }) => spell(method, path.replaceAll(/\{(\w+)\}/g, ':$1')))
    expect(declared.sort()).toEqual([...new Set(served.map(({ method, path }) => spell(method, path)))].sort())
  })

  it.each(
    ROUTES.filter((route) => bodyOf(route) !== undefined).map(
      (route) => [`${route.method} ${route.path}`, route] as const,
    ),
  )('%s: the schema that is declared is the one that the body is parsed with', async (_, route) => {
    const schema = bodyOf(route)
    if (schema === undefined) throw new Error('no body')
    const parse = vi.spyOn(schema, 'safeParse')
    const sent = { 'no-such-field': true }
    const as = route.path.startsWith('/admin/') ? house.adminKey : key
    const reply = await house.call(route.method.toUpperCase(), filled(route.path), as, sent)
    expect([reply.status, parse.mock.calls]).toEqual([400, [[sent]]])
    parse.mockRestore()
  })
})

describe('the documents', () => {
  it('are generated from the declarations', () => {
    expect(publicDocument).toEqual(writeDocument('public', publicDocument.info.version))
    expect(adminDocument).toEqual(writeDocument('admin', adminDocument.info.version))
  })

  it('are served as they are committed, the public part without a key', async () => {
    const open = await house.call('GET', '/openapi.json')
    expect([open.status, open.headers.get('content-type')]).toEqual([200, 'application/json'])
    expect(open.json).toEqual(publicDocument)
    expect((await house.call('GET', '/admin/openapi.json', house.adminKey)).json).toEqual(adminDocument)
  })

  it('give the admin part to admin keys alone, and name no admin route in the public part', async () => {
    for (const path of ['/admin/openapi.json', '/admin/docs']) {
      expect([(await house.call('GET', path)).status, (await house.call('GET', path, key)).status]).toEqual([401, 403])
    }
    for (const path of ['/openapi.json', '/docs']) expect((await house.call('GET', path)).text).not.toContain('/admin')
  })
})

describe('the page of the reference', () => {
  it.each([
    ['/docs', publicDocument],
    ['/admin/docs', adminDocument],
  ])('%s shows every operation and every schema', async (path, document) => {
    const { status, text, headers } = await house.call('GET', path, house.adminKey)
    expect([status, headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8'])
    const ids = [...JSON.stringify(document).matchAll(/"operationId":"(\w+)"/g)].map(([, id]) => id)
    for (const id of ids) expect(text).toContain(`<details id="${id}">`)
    const links = [...text.matchAll(/href="#([^"]+)"/g)].map(([, id]) => id)
    expect(links.length).toBeGreaterThan(20)
    for (const id of links) expect(text).toContain(` id="${id}"`)
  })

  it('runs no script and reaches no other address: its policy allows its own style and nothing else', async () => {
    const { text, headers } = await house.call('GET', '/docs')
    const style = /<style>([\s\S]*)<\/style>/.exec(text)?.[1] ?? ''
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(style)))
    expect(headers.get('content-security-policy')).toBe(
      `default-src 'none'; style-src 'sha256-${btoa(String.fromCharCode(...hash))}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
    )
    expect(text).not.toMatch(/<script|<img|<link|<iframe|<form|style=|\bon\w+=|https?:\/\//i)
  })
})
