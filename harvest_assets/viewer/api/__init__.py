"""What the pages show, as JSON: `/api`, described by `/api/openapi.json`.

To add an endpoint:

1. Write a function whose first parameter is `request: Request` and whose others are those of the
   address. `harvest_of(request, run)` opens the harvest; whatever `make_app` passes to `Api` is an
   attribute of `request.app.state`. It returns a frozen pydantic model or a dataclass of plain
   values, or raises `HarvestError` or `HTTPException` with one sentence.
2. Import it in `app.py`.
3. Add it to `ENDPOINTS` there, with its path. The first line of its docstring is its description.

FastAPI is loaded by the first request for `/api`, so that pages do not wait for it.
"""
