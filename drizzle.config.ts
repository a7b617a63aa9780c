// How migrations are generated: `drizzle-kit generate` compares gateway/schema.ts and records.ts with migrations/meta.
import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'sqlite',
  schema: ['./gateway/schema.ts', './gateway/records.ts'],
  out: './migrations',
  // wrangler's own bookkeeping table is not ours to drop.
  tablesFilter: ['!d1_migrations'],
})
