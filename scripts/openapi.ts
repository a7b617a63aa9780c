// Writes docs/openapi.json and docs/openapi-admin.json from the declarations of the gateway's routes; with --check, fails
// if they would change. The gateway serves these very files.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { writeDocument } from '../gateway/openapi/document.ts'

const { version } = JSON.parse(readFileSync('package.json', 'utf8'))
const FILES = { 'docs/openapi.json': 'public', 'docs/openapi-admin.json': 'admin' } as const

for (const [file, part] of Object.entries(FILES)) {
  const after = `${JSON.stringify(writeDocument(part, version), null, 1)}\n`
  const before = existsSync(file) ? readFileSync(file, 'utf8') : ''
  if (process.argv.includes('--check') && after !== before) {
    console.error(`${file} is not what the routes declare; run \`npm run openapi\``)
    process.exit(1)
  }
  writeFileSync(file, after)
}
