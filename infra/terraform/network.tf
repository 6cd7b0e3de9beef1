# A network of the cluster's own. No node has a public address: they reach out through one gateway, and the bucket without it.
data "aws_availability_zones" "here" {
  state = "available"
}

data "aws_ssm_parameter" "image" {
  for_each = var.images
  name     = each.value
}

locals {
  zones = slice(data.aws_availability_zones.here.names, 0, min(3, length(data.aws_availability_zones.here.names)))
  image = { for kind, found in data.aws_ssm_parameter.image : kind => nonsensitive(found.value) }
}

resource "aws_vpc" "cluster" {
  cidr_block           = "10.42.0.0/16"
  enable_dns_hostnames = true
  tags                 = { Name = var.cluster_name }
}

resource "aws_default_security_group" "none" {
  vpc_id = aws_vpc.cluster.id # without rules: nothing in or out for whoever forgets to name a group
}

resource "aws_internet_gateway" "out" {
  vpc_id = aws_vpc.cluster.id
}

resource "aws_subnet" "public" {
  vpc_id            = aws_vpc.cluster.id
  cidr_block        = "10.42.255.0/28" # the NAT gateway alone
  availability_zone = local.zones[0]
}

resource "aws_subnet" "private" {
  for_each          = { for index, zone in local.zones : zone => index }
  vpc_id            = aws_vpc.cluster.id
  cidr_block        = cidrsubnet(aws_vpc.cluster.cidr_block, 4, each.value)
  availability_zone = each.key # several, for spot capacity differs
}

resource "aws_eip" "out" {
  domain     = "vpc"
  depends_on = [aws_internet_gateway.out]
}

resource "aws_nat_gateway" "out" {
  allocation_id = aws_eip.out.id
  subnet_id     = aws_subnet.public.id
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.cluster.id
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.out.id
  }
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.cluster.id
  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.out.id
  }
}

resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table_association" "private" {
  for_each       = aws_subnet.private
  subnet_id      = each.value.id
  route_table_id = aws_route_table.private.id
}

# Photographs do not pass the NAT gateway, which costs by the byte.
resource "aws_vpc_endpoint" "s3" {
  vpc_id          = aws_vpc.cluster.id
  service_name    = "com.amazonaws.${var.region}.s3"
  route_table_ids = [aws_route_table.private.id]
}

resource "aws_security_group" "cluster" {
  name        = "foodray-cluster"
  description = "Nodes of the Ray cluster among themselves"
  vpc_id      = aws_vpc.cluster.id
}

resource "aws_vpc_security_group_ingress_rule" "itself" {
  security_group_id            = aws_security_group.cluster.id
  referenced_security_group_id = aws_security_group.cluster.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  count             = var.ssh_cidr == null ? 0 : 1
  security_group_id = aws_security_group.cluster.id
  cidr_ipv4         = var.ssh_cidr
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

resource "aws_vpc_security_group_egress_rule" "out" {
  security_group_id = aws_security_group.cluster.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}
