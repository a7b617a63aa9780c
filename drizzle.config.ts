// How migrations are generated: `drizzle-kit generate` compares gateway/database/schema.ts and records.ts with migrations/meta.
import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'sqlite',
  schema: ['./gateway/database/schema.ts', './gateway/database/records.ts'],
  out: './migrations',
  // wrangler's own bookkeeping table is not ours to drop.
  tablesFilter: ['!d1_migrations'],
})
