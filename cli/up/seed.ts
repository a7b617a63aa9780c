// The demo's registry: tenants, users, roles, grants, one experiment. Written through the admin API, as an operator would.
// Every call is idempotent, so a start after a crash goes on where the last one ended.
import { z } from 'zod'
import type { AdapterEntry, Manifest } from '../../compiler/contract.ts'
import { applyMigrations } from '../../gateway/database/migrate.ts'
import { bootstrapAdminKey } from '../../gateway/identity/bootstrap.ts'
import { parsePeppers } from '../../gateway/identity/keys.ts'
import { readMigrations } from '../gateway/migrations.ts'
import { type Admin, accepts, adminOf } from './admin.ts'
import type { DataFolder } from './data-folder.ts'
import type { GatewayHost } from './gateway-host.ts'
import type { Secrets } from './secrets.ts'

const FILE = 'demo.json'
const MAX_TOKENS = 512

/** `models` are public names; each is an adapter of that name, the bare base, or the experiment. */
const TENANTS = [
  { name: 'acme', user: 'ada', role: 'support', who: 'the support desk', models: ['triage'] },
  { name: 'birch', user: 'bo', role: 'scheduling', who: 'schedulers', models: ['dates'] },
  { name: 'cedar', user: 'cyd', role: 'legal', who: 'lawyers', models: ['clauses', 'dates'] },
  {
    name: 'lab',
    user: 'lin',
    role: 'research',
    who: 'everything, and an A/B test as "assistant"',
    models: ['assistant', 'base', 'clauses', 'dates', 'triage'],
  },
] as const
const BASE_MODEL = 'base'
const EXPERIMENT_MODEL = 'assistant'
/** In order: the first is the control. Weights are of 10,000. */
const ARMS = [
  { id: 'control', adapter: 'triage', weight: 5000 },
  { id: 'variant', adapter: 'clauses', weight: 5000 },
] as const

const StoredDemo = z.object({
  adminKey: z.string(),
  tenants: z.array(z.object({ name: z.string(), key: z.string() })),
})

export interface Demo {
  readonly gatewayUrl: string
  readonly backendUrl: string
  readonly adminKey: string
  readonly tenants: readonly { name: string; key: string; models: string[]; who: string }[]
}

export interface SeedInput {
  readonly folder: DataFolder
  readonly gateway: GatewayHost
  readonly secrets: Secrets
  readonly backendUrl: string
  readonly manifest: Manifest
}

/** Migrates and seeds, writes `demo.json`, and last of all registers the backend, which is what makes `/healthz` answer 200. */
export async function seedDemo(input: SeedInput): Promise<Demo> {
  const { folder, gateway, secrets, backendUrl, manifest } = input
  await applyMigrations(gateway.database, await readMigrations())
  const stored = StoredDemo.safeParse(await folder.readJson(FILE)).data
  const adminKey = await liveAdminKey(gateway, secrets, stored?.adminKey)
  const admin = adminOf(gateway.url, adminKey)
  await admin.put(`bases/${manifest.base.digest}`, {})
  for (const tenant of TENANTS) await seedTenant(admin, tenant, manifest)
  const tenants = []
  for (const { name, user, who, models } of TENANTS) {
    const known = stored?.tenants.find((one) => one.name === name)?.key
    const live = known !== undefined && (await accepts(gateway.url, known, '/v1/models'))
    tenants.push({ name, key: live ? known : await admin.mintKey(name, user), models: [...models], who })
  }
  const demo = { gatewayUrl: gateway.url, backendUrl, adminKey, tenants }
  await folder.writePrivate(FILE, { ...demo, tenants: tenants.map(({ name, key, models }) => ({ name, key, models })) })
  await admin.put('backends/local', { url: backendUrl, base: manifest.base.digest })
  return demo
}

/** The stored key where it still works; else a new one, made with the database and the pepper in hand. */
async function liveAdminKey(gateway: GatewayHost, secrets: Secrets, stored: string | undefined): Promise<string> {
  if (stored !== undefined && (await accepts(gateway.url, stored, '/admin/bases'))) return stored
  const peppers = parsePeppers(JSON.stringify(secrets.peppers))
  if (peppers === null) throw new Error('the peppers that sidepath made are not what the gateway takes')
  return bootstrapAdminKey(gateway.database, { environment: 'local', peppers, now: Date.now() })
}

async function seedTenant(admin: Admin, tenant: (typeof TENANTS)[number], manifest: Manifest): Promise<void> {
  const at = `tenants/${tenant.name}`
  const wants = (model: string) => (tenant.models as readonly string[]).includes(model)
  await admin.put(at, { maxTokens: MAX_TOKENS })
  await admin.put(`${at}/roles/${tenant.role}`, {})
  await admin.put(`${at}/users/${tenant.user}`, { roles: [tenant.role] })
  const allow = (resource: object) => ({ effect: 'allow', principal: { kind: 'role', id: tenant.role }, resource })
  for (const adapter of manifest.adapters.filter(({ name }) => wants(name))) {
    const id = await registerAdapter(admin, at, adapter, manifest.base.digest)
    await admin.put(`${at}/models/${adapter.name}`, { adapter: id })
    await admin.put(`${at}/grants/${adapter.name}`, allow({ kind: 'adapter', id }))
  }
  if (wants(BASE_MODEL)) {
    await admin.put(`${at}/models/${BASE_MODEL}`, { base: manifest.base.digest })
    await admin.put(`${at}/grants/${BASE_MODEL}`, allow({ kind: 'base', digest: manifest.base.digest }))
  }
  if (wants(EXPERIMENT_MODEL)) await seedExperiment(admin, at, manifest)
}

/** A version is immutable, so an adapter whose content changed is the next version under an id of its own. */
async function registerAdapter(admin: Admin, at: string, adapter: AdapterEntry, base: string): Promise<string> {
  const id = adapterId(adapter)
  const rows = await admin.list(
    `${at}/adapters`,
    z.object({ id: z.string(), name: z.string(), version: z.number(), digest: z.string() }),
  )
  if (rows.some((row) => row.id === id)) return id
  const versions = rows.filter(({ name }) => name === adapter.name).map(({ version }) => version)
  const version = Math.max(0, ...versions) + 1
  await admin.put(`${at}/adapters/${id}`, { name: adapter.name, version, digest: adapter.digest, base })
  return id
}

/** Arms are immutable too: the experiment's id says which contents it compares. */
async function seedExperiment(admin: Admin, at: string, manifest: Manifest): Promise<void> {
  const arms = ARMS.map(({ id, adapter: name, weight }) => {
    const entry = manifest.adapters.find((adapter) => adapter.name === name)
    if (entry === undefined) throw new Error(`the demo artifact lacks the adapter "${name}"`)
    return { id, weight, adapter: adapterId(entry) }
  })
  const id = [EXPERIMENT_MODEL, ...arms.map(({ adapter }) => adapter.slice(-4))].join('-')
  const known = await admin.list(`${at}/experiments`, z.object({ id: z.string() }))
  if (!known.some((row) => row.id === id)) await admin.put(`${at}/experiments/${id}`, { arms })
  await admin.patch(`${at}/experiments/${id}`, { status: 'running' })
  await admin.put(`${at}/models/${EXPERIMENT_MODEL}`, { experiment: id })
}

function adapterId({ name, digest }: AdapterEntry): string {
  return `${name}-${digest.slice(0, 8)}`
}
