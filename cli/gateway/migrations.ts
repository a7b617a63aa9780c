// The numbered SQL of migrations/, as a host applies it.
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Migration } from '../../gateway/database/migrate.ts'

const FOLDER = join(import.meta.dirname, '..', '..', 'migrations')

/** In order. */
export async function readMigrations(): Promise<Migration[]> {
  const names = (await readdir(FOLDER)).filter((name) => name.endsWith('.sql')).sort()
  return Promise.all(names.map(async (name) => ({ name, sql: await readFile(join(FOLDER, name), 'utf8') })))
}
