module github.com/twiliosync/twiliosync-go/intermediaries

go 1.26

require (
	github.com/stretchr/testify v1.12.1
	github.com/twiliosync/twiliosync-go v0.0.0
)

require (
	github.com/google/go-querystring v1.2.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

replace github.com/twiliosync/twiliosync-go => ../
