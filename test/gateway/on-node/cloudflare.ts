// What the gateway's tests import from workerd's modules, on Node: the same tests then run on both hosts.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { openLibsql } from '../../../cli/gateway/libsql-database.ts'
import { readMigrations } from '../../../cli/gateway/migrations.ts'
import { applyMigrations, type Migration } from '../../../gateway/database/migrate.ts'
import { fuzzed, SECRETS } from '../secrets.ts'

const folder = mkdtempSync(join(tmpdir(), 'sidepath-gateway-'))
const { db, close } = await openLibsql(`file:${join(folder, 'gateway.db')}`)
afterAll(() => {
  close()
  rmSync(folder, { recursive: true })
})

export const env = { ...SECRETS, FUZZ: fuzzed(), DB: db, TEST_MIGRATIONS: await readMigrations() }

export async function applyD1Migrations(to: typeof db, migrations: readonly Migration[]): Promise<void> {
  await applyMigrations(to, migrations)
}

const owed = new WeakMap<object, Promise<unknown>[]>()

export function createExecutionContext() {
  const works: Promise<unknown>[] = []
  const context = { waitUntil: (work: Promise<unknown>) => void works.push(work), passThroughOnException() {} }
  owed.set(context, works)
  return context
}

export async function waitOnExecutionContext(context: object): Promise<void> {
  // More may be owed once some is done.
  const works = owed.get(context) ?? []
  while (works.length > 0) await Promise.allSettled(works.splice(0))
}
