// The reference: `openapi.json` and the same as a page, of the public API for everybody, of the admin API for admin keys.
// The public part says how to speak to a gateway and nothing of what is in this one, and clients are generated from it
// by tools that have no key. The admin part keeps the one rule of /admin: nothing there answers without an admin key.
import type { Context, Hono } from 'hono'
import type { GatewayEnv } from '../context.ts'
import type { OpenApi } from './openapi.ts'
import { renderPage, STYLE } from './render-page.ts'

type Load = () => Promise<OpenApi>

// Loaded by the first who asks: a cold start has no use for them.
const loadPublic: Load = async () =>
  (await import('../../docs/openapi.json', { with: { type: 'json' } })).default as OpenApi
const loadAdmin: Load = async () =>
  (await import('../../docs/openapi-admin.json', { with: { type: 'json' } })).default as OpenApi

/** No script, no image, no frame, no form; one style, and only that one. */
async function policyOf(style: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(style)))
  const hash = btoa(String.fromCharCode(...digest))
  return `default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`
}

function add(app: Hono<GatewayEnv>, load: Load): void {
  let text: string | undefined
  let page: { readonly html: string; readonly policy: string } | undefined
  app.get('/openapi.json', async (c: Context<GatewayEnv>) => {
    text ??= JSON.stringify(await load())
    return c.body(text, 200, { 'content-type': 'application/json' })
  })
  app.get('/docs', async (c: Context<GatewayEnv>) => {
    page ??= { html: renderPage(await load()), policy: await policyOf(STYLE) }
    return c.body(page.html, 200, {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': page.policy,
    })
  })
}

export const addReference = (app: Hono<GatewayEnv>): void => add(app, loadPublic)
export const addAdminReference = (admin: Hono<GatewayEnv>): void => add(admin, loadAdmin)
