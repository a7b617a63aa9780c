// Every route has a guard; a gateway without its secrets has none open; health.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { PUBLIC_PATHS } from '../../gateway/identity/authenticate.ts'
import { allow, BASE, base, createHouse, type House, NOW, seed, toTenant } from './house.ts'

describe('the table of routes (invariant 7)', () => {
  let house: House
  let key: string
  const routes = () =>
    house.app.routes
      .filter((route) => route.method !== 'ALL')
      .map(({ method, path }) => ({ method, path: path.replaceAll(/:\w+/g, 'x') }))
  beforeAll(async () => {
    house = await createHouse()
    await seed(house)
    key = (await house.mint('acme')).key
  })

  it('has three public paths, and every other route answers 401 without a key', async () => {
    expect(PUBLIC_PATHS).toEqual(['/healthz', '/openapi.json', '/docs'])
    expect(routes().length).toBeGreaterThan(30)
    for (const { method, path } of routes()) {
      const reply = await house.call(method, path, null, method === 'GET' || method === 'DELETE' ? undefined : {})
      expect([method, path, reply.status === 401]).toEqual([method, path, !PUBLIC_PATHS.includes(path)])
    }
  })

  it('gives each plane to its own class of key', async () => {
    for (const { method, path } of routes()) {
      if (PUBLIC_PATHS.includes(path)) continue
      const body = method === 'GET' || method === 'DELETE' ? undefined : {}
      const wrong = path.startsWith('/admin/') ? key : house.adminKey
      const reply = await house.call(method, path, wrong, body)
      expect([method, path, reply.status, reply.json.error.code]).toEqual([method, path, 403, 'wrong_key_class'])
    }
  })

  it('runs the guard on paths that no route has, and says nothing of them without a key', async () => {
    for (const path of [
      '/',
      '/v1',
      '/v1/embeddings',
      '/admin',
      '/admin/',
      '/v1/proxy/x',
      '/healthz/',
      '/HEALTHZ',
      '//healthz',
      '/healthz%2f',
    ]) {
      expect((await house.call('GET', path)).status, path).toBe(401)
    }
    expect((await house.call('GET', '/v1/embeddings', key)).json.error.code).toBe('not_found')
    expect((await house.call('POST', '/v1/models', key, {})).status).toBe(404)
  })

  it('does not open anything by method, encoding or case', async () => {
    for (const method of ['HEAD', 'OPTIONS', 'PATCH', 'DELETE']) {
      expect((await house.call(method, '/v1/models')).status, method).toBe(401)
    }
    for (const path of [
      '/admin/tenants',
      '/%61dmin/tenants',
      '/admi%6e/tenants',
      '/Admin/tenants',
      '//admin/tenants',
      '/v1/../admin/tenants',
    ]) {
      expect([401, 403, 404], path).toContain((await house.call('GET', path, key)).status)
    }
  })

  it('takes neither the route nor the decision from an odd Host header', async () => {
    for (const host of ['x/#@evil', 'localhost/healthz?', 'x/healthz#', 'admin']) {
      const { response } = await house.open('/v1/models', {
        headers: { host, 'x-forwarded-host': host, 'x-original-url': '/healthz' },
      })
      expect(response.status, host).toBe(401)
      await response.body?.cancel()
    }
  })

  it('carries the security headers and its own request id on every answer, and no CORS', async () => {
    const ids = new Set<string | null>()
    for (const reply of [
      await house.call('GET', '/healthz'),
      await house.call('GET', '/v1/models', key),
      await house.call('GET', '/v1/models'),
      await house.call('GET', '/nowhere', key),
    ]) {
      expect(reply.headers.get('cache-control')).toBe('no-store, no-transform')
      expect(reply.headers.get('x-content-type-options')).toBe('nosniff')
      expect(reply.headers.get('content-security-policy')).toContain("default-src 'none'")
      expect(reply.headers.get('access-control-allow-origin')).toBeNull()
      ids.add(reply.headers.get('x-request-id'))
    }
    expect(ids.size).toBe(4)
    const { response } = await house.open('/healthz', { headers: { 'x-request-id': 'mine' } })
    expect(response.headers.get('x-request-id')).not.toBe('mine')
  })
})

describe('a gateway without its bindings', () => {
  it.each([
    ['PEPPERS', undefined],
    ['PEPPERS', '{}'],
    ['CAPABILITY_SECRET', undefined],
    ['CAPABILITY_SECRET', 'x'.repeat(31)],
    ['ENVIRONMENT', ''],
    ['DB', undefined],
  ])('answers 503 everywhere where %s is %s, and logs the name only', async (name, value) => {
    const house = await createHouse()
    const bindings = { ...env, [name]: value }
    for (const path of ['/healthz', '/v1/models', '/admin/tenants', '/nowhere']) {
      const reply = await house.call('GET', path, house.adminKey, undefined, bindings)
      expect(reply.status).toBe(503)
      expect(reply.json.error.code).toBe('gateway_misconfigured')
      expect(reply.text).not.toContain(name)
    }
    expect(house.logged()).toContain(JSON.stringify({ event: 'config.invalid', bindings: name }))
  })
})

describe('health', () => {
  it('follows the schema, the backends of each used base, and its own two seconds of memory', async () => {
    const house = await createHouse()
    const health = async () => {
      house.clock.now += 2_000
      const reply = await house.call('GET', '/healthz')
      return [reply.status, reply.json.status]
    }
    expect(await health()).toEqual([503, 'no_ready_backend'])
    await seed(house)
    await house.admin('PUT', '/tenants/acme/grants/g', allow(toTenant, base))
    expect(await health()).toEqual([503, 'no_ready_backend'])
    house.backend.becomeReady('c'.repeat(64))
    expect(await health()).toEqual([503, 'no_ready_backend'])
    house.backend.becomeReady(BASE)
    expect(await health()).toEqual([200, 'ok'])
    await house.admin('PUT', '/backends/one', { url: 'http://one.test', base: BASE, enabled: false })
    expect((await house.call('GET', '/healthz')).status).toBe(200)
    expect(await health()).toEqual([503, 'no_ready_backend'])
    const broken = {
      ...env,
      DB: {
        prepare: () => {
          throw new Error('no such table: bases')
        },
      },
    }
    house.clock.now = NOW + 100_000
    const reply = await house.call('GET', '/healthz', null, undefined, broken)
    expect([reply.status, reply.text]).toEqual([503, '{"status":"database_unavailable"}'])
  })
})
